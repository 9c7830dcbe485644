"""One check of all keys at a time: a second one waits, so that both keep one rate limit.

Of the scheduled runs that are late after an outage of the worker only the newest one checks.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Final

from prefect import get_client, get_run_logger
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort

from cmek.models import request_in
from tasks.runs import (
    PAGE,
    TRY_SECONDS,
    SlotRefusedError,
    current_run_id,
    ensure_single_slot,
    never_ends_the_run,
    take_slot,
)

LIMIT: Final = "cmek-revalidation"
NOT_ENDED: Final = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]


async def newer_run() -> FlowRun | None:
    """A newer run of the same schedule that is due too, so that this one need not check.

    Prefect's scheduler creates runs whether or not a worker is there, so all that were due during
    an outage start after it. None for a run that a person has started, retried or rescheduled.
    """
    newer = None
    with never_ends_the_run("Whether a newer run is due is not known, so this one checks"):
        async with get_client() as client:
            newer = await _newer_run(client)
    return newer


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


async def wait_for_turn(held: AsyncExitStack, seconds: float) -> FlowRun | None:
    """Wait for the slot, which `held` gives back. None: go on; else the run that kept the slot.

    A restarted server can keep a slot whose lease it has lost, and a failing one gives none. Then
    this run continues without the slot: no key may stay unchecked because of a lock.
    """
    try:
        return await _wait_for_slot(held, seconds)
    except SlotRefusedError as error:
        get_run_logger().warning("Going on without a slot: %s", error)
        return None


async def _wait_for_slot(held: AsyncExitStack, seconds: float) -> FlowRun | None:
    deadline = time.monotonic() + seconds
    async with get_client() as client:
        await ensure_single_slot(client, LIMIT)
        while not await take_slot(
            held,
            LIMIT,
            timeout_seconds=min(TRY_SECONDS, seconds),
            ends_when_lost=False,  # a lost lease must not cancel the checks
        ):
            other = await _other(client)
            if other is None:
                get_run_logger().warning(
                    "The concurrency limit %s has no free slot, and no run holds it: going on "
                    "without. `prefect gcl delete %s` puts it right",
                    LIMIT,
                    LIMIT,
                )
                return None
            if time.monotonic() > deadline:
                return other
    return None


async def _other(client: PrefectClient) -> FlowRun | None:
    """A run of all keys that is executing, besides this one."""
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    runs = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["revalidate-keys"])),
        flow_run_filter=FlowRunFilter(state=running),
    )
    for run in runs:
        request = request_in(run.parameters)
        some_keys = request.get("external_keys") or request.get("look_again")
        if run.id != current_run_id() and not some_keys:
            return run
    return None
