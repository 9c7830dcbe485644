"""Whether a run that should be executing still gives a sign of life."""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.events.filters import EventFilter, EventNameFilter, EventOrder, EventResourceFilter
from prefect.exceptions import ObjectNotFound

HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_POLL_SECONDS: Final = 2.0


class Sign(NamedTuple):
    """What the server knows of a run: a change of either field is a sign of life."""

    state_id: UUID | None
    last_heartbeat: UUID | None


async def other_than_silent(client: PrefectClient, run_id: UUID, seconds: float) -> str | None:
    """Watch a run; what shows that it is not silent, or None when it stayed so.

    Args:
        client: Of the Prefect server.
        run_id: The run to watch.
        seconds: For how long; two heartbeats at least.
    """
    deadline = time.monotonic() + seconds
    first: Sign | None = None
    while True:
        try:
            run = await client.read_flow_run(run_id)
        except ObjectNotFound:
            return "it was deleted"
        if run.state is None or not (run.state.is_running() or run.state.is_pending()):
            return f"it is {run.state_name or 'without a state'}"
        sign = Sign(run.state_id, await _last_heartbeat(client, run_id))
        first = first or sign
        if sign != first:
            return "it gave a sign of life"
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))


async def _last_heartbeat(client: PrefectClient, run_id: UUID) -> UUID | None:
    wanted = EventFilter(
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run_id}"]),
        order=EventOrder.DESC,
    )
    page = await client.read_events(wanted, limit=1)
    return page.events[0].id if page.events else None
