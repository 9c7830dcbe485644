"""Of the scheduled runs that are late after an outage of the worker only the newest one works."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Completed

from cmek.outcomes import RunOutcome
from tasks.runs import PAGE, current_run_id, never_ends_the_run

NOT_ENDED: Final = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]


async def skipped_as_late() -> State[Any] | None:
    """The final state of a run that leaves the work to a newer run of its schedule; None: go on.

    Prefect's scheduler creates runs whether or not a worker is there, so all that were due during
    an outage start after it. A run that a person has started, retried or rescheduled goes on.
    """
    newer = None
    with never_ends_the_run("Whether a newer run is due is not known, so this one goes on"):
        async with get_client() as client:
            newer = await _newer_run(client)
    if newer is None:
        return None
    return Completed(
        name=RunOutcome.SKIPPED,
        message=f"This run was late: {newer.name} ({newer.id}), which does the same, is due too",
    )


async def _newer_run(client: PrefectClient) -> FlowRun | None:
    run = await client.read_flow_run(current_run_id())
    # set once, by the schedule; `next_scheduled_start_time` is unset when the run starts
    due = run.expected_start_time
    if not run.auto_scheduled or run.deployment_id is None or due is None:
        return None
    late = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[run.deployment_id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=NOT_ENDED)),
            expected_start_time=FlowRunFilterExpectedStartTime(
                after_=due, before_=datetime.now(UTC)
            ),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=PAGE,
    )
    for other in late:
        # follow-ups are runs of the deployment too; another schedule may check at another depth
        same = other.auto_scheduled and other.parameters == run.parameters
        if same and other.expected_start_time and other.expected_start_time > due:
            return None if await _was_rescheduled(client, run) else other
    return None


async def _was_rescheduled(client: PrefectClient, run: FlowRun) -> bool:
    """Whether a person has retried the run, or set another time: only the schedule's is late."""
    return any(
        state.is_scheduled() and state.state_details.scheduled_time != run.expected_start_time
        for state in await client.read_flow_run_states(run.id)
    )
