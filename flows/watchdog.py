"""A run whose worker died stays Running or Pending and keeps its workspace: mark it as crashed."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Completed, Crashed
from pydantic import Field

from cmek.outcomes import RunOutcome
from tasks.runs import wait_for_heartbeat


@flow(name="crash-stale-run", flow_run_name="watch {flow_run_id}", persist_result=False, retries=0)
async def crash_stale_run(
    flow_run_id: UUID, watch_seconds: Annotated[float, Field(ge=0)] = 360
) -> State[Any]:
    """Mark a run as crashed when it is Running or Pending and gives no sign of life.

    The automation `cmek: run is silent` starts this. Prefect's own action would rely on events
    alone: one that is late or lost ("database is locked") would crash a run that waits for an
    approval. This one reads the run's state, and crashes only what is Running or Pending.

    Args:
        flow_run_id: The run to check.
        watch_seconds: How long it must stay silent while it is watched. Two heartbeats at least
            (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`, 180 s unless set).
    """
    async with get_client() as client:
        why_not = await wait_for_heartbeat(client, flow_run_id, watch_seconds)
        if why_not is not None:
            return Completed(name=RunOutcome.LEFT_ALONE, message=f"run {flow_run_id}: {why_not}")
        message = (
            f"no sign of life for {watch_seconds:.0f} s and longer: its process or worker is gone. "
            "Retry goes on behind the steps that are done, with a new approval"
        )
        await client.set_flow_run_state(flow_run_id, Crashed(message=message))
        watched = await _watched_by(client, flow_run_id)
        if watched is not None:
            # its automation has fired already and fires for it no more
            return await crash_stale_run.fn(watched, watch_seconds)
    return Completed(name=RunOutcome.MARKED_AS_CRASHED, message=f"run {flow_run_id}: {message}")


async def _watched_by(client: PrefectClient, run_id: UUID) -> UUID | None:
    """The run that this run has watched, if it was a run of this flow."""
    run = await client.read_flow_run(run_id)
    flow_id = (await client.read_flow_by_name(crash_stale_run.name)).id
    return UUID(str(run.parameters["flow_run_id"])) if run.flow_id == flow_id else None
