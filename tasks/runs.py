"""The flow run that is executing, other runs by filter, and the state that a run keeps.

A run's state is what it must remember across suspensions. It is kept in the run's own result
storage, where only the worker writes. A cached task result would not do: a read that finds
nothing would be cached as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.events.filters import EventFilter, EventNameFilter, EventOrder, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.results import ResultStore, get_result_store
from prefect.runtime import flow_run
from pydantic import BaseModel

from cmek.onboarding.request import OnboardingForm, OnboardingRequest

ONBOARDING: Final = "onboard-workspace/onboard"
"""The onboarding's deployment."""
HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_POLL_SECONDS: Final = 2.0
_PAGE: Final = 200
_NEXT: Final = ".next"
_PINNED: Final = "request"
M = TypeVar("M", bound=BaseModel)


def current_run_id() -> UUID:
    """The id of the flow run that is executing.

    Raises:
        RuntimeError: Outside a flow run.
    """
    known: str | None = flow_run.id
    if known is None:
        raise RuntimeError("outside a flow run")
    return UUID(known)


async def retag(client: PrefectClient, *tags: str, without: str | None = None) -> None:
    """Add tags to this run, and remove those that start with `without`."""
    run = await client.read_flow_run(current_run_id())
    kept = {tag for tag in run.tags if without is None or not tag.startswith(without)}
    await client.update_flow_run(run.id, tags=sorted(kept.union(tags)))


async def find_runs(client: PrefectClient, wanted: FlowRunFilter) -> AsyncIterator[FlowRun]:
    """The runs that fit a filter, over all pages."""
    offset = 0
    while page := await client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=offset):
        offset += len(page)
        for run in page:
            yield run


async def save_state(name: str, value: BaseModel) -> None:
    """Keep `value` under this run and `name`; when that fails, what was kept before stays."""
    # A file is emptied before it is written, so a full disk or a kill can leave it incomplete.
    # Of two copies that are written one after the other, one is complete at any moment.
    for key in (_key(name, _NEXT), _key(name)):
        await _store().awrite(value.model_dump_json(), key=key)


async def load_state(name: str, kind: type[M]) -> M | None:
    """What was kept under `name`; None when nothing was, or it was lost, or another release's."""
    return await _read(_key(name), kind) or await _read(_key(name, _NEXT), kind)


async def _read(key: str, kind: type[M]) -> M | None:
    store = _store()
    if not await store.aexists(key):
        return None
    try:
        record = await store.aread(key)
        return kind.model_validate_json(record.result)
    except (ValueError, TypeError):  # incomplete, or not ours: pydantic's errors are ValueErrors
        return None


def _store() -> ResultStore:
    # A flow's own store keeps a result's metadata nowhere, so it could not find it again.
    return get_result_store().model_copy(update={"metadata_storage": None})


def _key(name: str, which: str = "") -> str:
    return f"cmek-{current_run_id()}-{name}{which}"


async def pin_request(
    form: OnboardingForm, resolve: Callable[[OnboardingForm], Awaitable[OnboardingRequest]]
) -> OnboardingRequest:
    """The request as this run first saw it, whatever its parameters and its policy say by now.

    Args:
        form: This run's parameter.
        resolve: Applies the policy; called when nothing is pinned yet.
    """
    pinned = await load_state(_PINNED, OnboardingRequest)
    if pinned is None:
        pinned = await resolve(form)
        await save_state(_PINNED, pinned)
    return pinned


async def wait_for_heartbeat(client: PrefectClient, run_id: UUID, seconds: float) -> str | None:
    """Watch a run; what shows that it is alive or over, or None when it stayed silent.

    Args:
        client: Of the Prefect server.
        run_id: The run to watch.
        seconds: For how long; two heartbeats at least.
    """
    deadline = time.monotonic() + seconds
    first: tuple[UUID | None, UUID | None] | None = None
    while True:
        try:
            run = await client.read_flow_run(run_id)
        except ObjectNotFound:
            return "it was deleted"
        if run.state is None or not (run.state.is_running() or run.state.is_pending()):
            return f"it is {run.state_name or 'without a state'}"
        # a new state or a new heartbeat is a sign of life
        sign = (run.state_id, await _last_heartbeat(client, run_id))
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
