"""Start onboardings up to the approval: for workspaces found hourly, or announced by an event.

What needs a person's decision is left to a person: no run that is started here adopts an existing
key, repairs, takes the default workspace, or starts again after a rejection.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from cmek.anthropic.models import Workspace
from cmek.discovery.request import DiscoveryRequest, read_announcement
from cmek.discovery.rules import (
    Action,
    DiscoveryDecision,
    ineligible_reason,
    opt_in_missing_reason,
    summary,
)
from cmek.errors import listed
from cmek.onboarding.policy import PolicyModel
from cmek.outcomes import RunOutcome
from flows._late_runs import skipped_as_late
from flows._outcome import reporting
from tasks.clients import close_clients
from tasks.discovery import decided, find_workspaces, publish_discovery, start_once
from tasks.reads import read_policy, read_workspace


@flow(
    name="discover-workspaces", flow_run_name="discover workspaces", persist_result=False, retries=0
)
async def discover_workspaces(
    request: DiscoveryRequest = DiscoveryRequest(),  # noqa: B008 - frozen
) -> State[Any]:
    """Start the onboarding of workspaces that have no key.

    Each gets one run, which waits for an approval. The table `cmek-discovery` says what
    was decided about each workspace, and why.

    Args:
        request: Which workspaces, and which keys they get.

    Raises:
        BlockMissingError: The policy can't be read.
        AdminApiError: The workspaces can't be read.
    """
    if not request.project_id:
        return _not_set_up()
    # each run starts at most `max_new_runs`, so many late ones together would start far more
    if (skipped := await skipped_as_late()) is not None:
        return skipped
    try:
        policy = await read_policy(request.policy)
        found = await find_workspaces(policy.anthropic_block)
        decisions = await _decide(request, policy, found)
        ended = _outcome(decisions)
        async with reporting(str(ended.message)) as report:
            await report.part("table", publish_discovery(decisions))
    finally:
        await close_clients()
    return ended


@flow(
    name="workspace-created",
    flow_run_name="a workspace was created",
    persist_result=False,
    retries=0,
)
async def workspace_created(
    payload: str,
    request: DiscoveryRequest = DiscoveryRequest(),  # noqa: B008 - frozen
) -> State[Any]:
    """Start the onboarding of the workspace that an event announces.

    The event `anthropic.workspace.created` starts this. The event is the opt-in; everything else
    is as in a discovery.

    Args:
        payload: The event's payload as JSON; only `workspace_id` is needed.
        request: Project and policy, where the payload does not say.

    Raises:
        MalformedEventError: Names what is wrong with the payload; nothing was started.
        WorkspaceNotFoundError: Not in the organization of the credential.
    """
    announced = read_announcement(payload)
    if not (announced.project_id or request.project_id):
        return _not_set_up()
    try:
        policy = await read_policy(request.policy)
        reading = await read_workspace(policy.anthropic_block, announced.workspace_id)
        workspace = reading.workspace
        why = ineligible_reason(workspace, request, is_default=reading.is_default)
        if why is not None:
            return _outcome([decided(workspace, Action.LEFT_OUT, why)])
        return _outcome([await start_once(request, policy, workspace, announced)])
    finally:
        await close_clients()


async def _decide(
    request: DiscoveryRequest, policy: PolicyModel, workspaces: Iterable[Workspace]
) -> list[DiscoveryDecision]:
    """Decide about every workspace, oldest first; start at most `max_new_runs` runs."""
    decisions: list[DiscoveryDecision] = []
    started = 0
    for workspace in sorted(workspaces, key=_created):
        why = ineligible_reason(workspace, request, is_default=False) or opt_in_missing_reason(
            workspace, request
        )
        if why is not None:
            decisions.append(decided(workspace, Action.LEFT_OUT, why))
        elif started >= request.max_new_runs:
            decisions.append(decided(workspace, Action.LATER, f"{started} were started now"))
        else:
            decisions.append(await start_once(request, policy, workspace))
            started += decisions[-1].action is Action.STARTED
    return decisions


def _not_set_up() -> State[Any]:
    return Completed(
        name=RunOutcome.NOT_SET_UP,
        message="this deployment names no Google Cloud project, so nothing was done: set "
        "project_id in its parameters, or deploy with `cmek deploy --project …`",
    )


def _created(workspace: Workspace) -> tuple[str, str]:
    created = workspace.created_at
    return (created.astimezone(UTC).isoformat() if created else "", workspace.id)


def _outcome(decisions: list[DiscoveryDecision]) -> State[Any]:
    """Red when a run could not be started; the message says which and why."""
    failed = [one for one in decisions if one.action is Action.FAILED]
    if failed:
        reasons = listed((f"{one.workspace_id}: {one.why}" for one in failed), separator="; ")
        return Failed(message=f"{summary(decisions)}. {reasons}")
    started = [one for one in decisions if one.action is Action.STARTED]
    if len(decisions) == 1:
        (one,) = decisions
        detail = f"run {one.run_id}, {one.why}" if one.run_id else one.why
        message = f"{one.workspace_id} {one.action}: {detail}"
    else:
        message = summary(decisions)
    name = RunOutcome.STARTED if started else RunOutcome.NOTHING_TO_START
    return Completed(name=name, message=message)
