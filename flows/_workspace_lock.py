"""One run per workspace: the first claims it, later ones end as duplicates."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run

from cmek.errors import CmekError
from cmek.names import artifact_key
from cmek.tags import claim_tag, workspace_tag
from tasks.runs import (
    LEASE_SECONDS,
    TRY_SECONDS,
    current_run_id,
    ensure_single_slot,
    find_runs,
    retag,
    take_slot,
)

HELD_SECONDS = 3 * LEASE_SECONDS
"""A slot that is held for longer has a living holder, or the server has lost its lease."""

_UNFINISHED = [
    StateType.SCHEDULED,
    StateType.PENDING,
    StateType.RUNNING,
    StateType.PAUSED,
    StateType.CANCELLING,
]


class WorkspaceLockedError(CmekError):
    """The workspace's slot does not become free; nothing was read, made or attached."""


@asynccontextmanager
async def workspace_lock(subject: str, *, claimed: bool) -> AsyncIterator[FlowRun | None]:
    """Hold the workspace while this run executes.

    The claim (a tag) outlives a suspension; the slot (a strict global concurrency limit) is held
    while executing only, and makes checking for other claims and claiming one atomic step.

    Args:
        subject: The id of a workspace, or `new:NAME` for one that is to be created.
        claimed: Whether this attempt of the run has claimed the workspace before.

    Yields:
        None when this run has the workspace, else the run that has it.

    Raises:
        WorkspaceLockedError: The slot stays taken, although no other run has the workspace.
        SlotRefusedError: The server gives no slot.
    """
    claim = claim_tag(subject)
    limit = artifact_key("workspace", subject)  # a limit's name allows fewer characters
    deadline = time.monotonic() + HELD_SECONDS
    async with get_client() as client, AsyncExitStack() as held:

        async def claimant() -> FlowRun | None:
            return None if claimed else await _lock_holder(client, claim)

        if not claimed and flow_run.run_count > 1:
            # else two runs that are retried together would each see the other's old claim
            await retag(client, without=claim)
        await ensure_single_slot(client, limit)
        # once without the slot, so that a duplicate ends without waiting for it
        other = await claimant()
        while other is None and not await take_slot(
            held,
            limit,
            timeout_seconds=TRY_SECONDS,
            ends_when_lost=True,  # without the slot, two runs could claim the workspace
        ):
            if time.monotonic() > deadline:
                raise WorkspaceLockedError(
                    f"the concurrency limit {limit!r} has had no free slot for {HELD_SECONDS:.0f} "
                    "s; nothing was done. Another process works for this run; or the server was "
                    "restarted meanwhile and keeps its leases in memory only: then "
                    f"`prefect gcl delete {limit}`, and Retry"
                )
            other = await claimant()
        other = other or await claimant()  # again: the slot's last holder may have claimed it
        if other is None:
            await retag(client, claim, workspace_tag(subject))
        yield other


async def tag_run(subject: str) -> None:
    """Tag this run, without a claim, so that it is listed among the runs of the workspace."""
    async with get_client() as client:
        await retag(client, workspace_tag(subject))


async def _lock_holder(client: PrefectClient, claim: str) -> FlowRun | None:
    wanted = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[claim]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNFINISHED)),
    )
    own = await client.read_flow_run(current_run_id())
    async for run in find_runs(client, wanted):
        # anyone may set a tag, but only a run of this flow that has started can have claimed
        if run.id != own.id and run.flow_id == own.flow_id and run.run_count > 0:
            return run
    return None
