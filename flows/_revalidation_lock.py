"""One check of all keys at a time: a second one waits, so that both keep one rate limit."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Final

from prefect import get_client, get_run_logger
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType

from cmek.models import request_in
from tasks.runs import (
    TRY_SECONDS,
    SlotRefusedError,
    current_run_id,
    ensure_single_slot,
    take_slot,
)

LIMIT: Final = "cmek-revalidation"


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
