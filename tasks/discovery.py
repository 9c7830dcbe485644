"""Find workspaces and start onboarding runs: for people, for discoveries and for API callers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from prefect import get_client, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import ValidationError

from cmek.anthropic.models import Workspace
from cmek.discovery.request import Announcement, DiscoveryRequest
from cmek.discovery.rules import (
    Action,
    DiscoveryDecision,
    EarlierRun,
    blocking_run,
    complete,
    finished_run_count,
    onboarding_for,
    page,
    request_differences,
    summary,
)
from cmek.discovery.rules import idempotency_key as numbered_key
from cmek.errors import CmekError
from cmek.models import request_in
from cmek.onboarding.policy import OverrideRefusedError, PolicyModel, UnnameableKeyError
from cmek.onboarding.request import resolve, subject_in
from cmek.tags import CMEK_TAG, workspace_tag
from tasks._task_options import uncached_task
from tasks.clients import admin_client
from tasks.runs import ONBOARDING, find_runs

PAGE_KEY: Final = "cmek-discovery"


class NotStartedError(CmekError):
    """No onboarding was started; says why and what to do."""


class OnboardingMissingError(NotStartedError):
    """The onboarding deployment is not on this server."""


class RequestRefusedError(NotStartedError):
    """The request does not fit the deployment's form."""


class DifferentRequestError(NotStartedError):
    """The run that exists already was started with another request."""


@uncached_task(name="Find workspaces")
async def find_workspaces(anthropic_block: str) -> tuple[Workspace, ...]:
    """All workspaces that are not archived.

    Raises:
        AdminApiError: They can't be read.
    """
    api = await admin_client(anthropic_block)
    return tuple([one async for one in api.workspaces.list()])


@uncached_task(name="Start onboarding", task_run_name="Start onboarding {workspace.id}")
async def start_once(
    request: DiscoveryRequest,
    policy: PolicyModel,
    workspace: Workspace,
    announced: Announcement | None = None,
) -> DiscoveryDecision:
    """Start the workspace's onboarding unless an earlier run forbids it.

    Args:
        request: The discovery's request.
        policy: The policy that the discovery names.
        workspace: A workspace that is eligible and has opted in.
        announced: The event's payload about this workspace.
    """
    async with get_client() as client:
        try:
            runs = await _earlier_runs(client, workspace.id)
            wait = timedelta(hours=request.try_again_after_hours)
            why = blocking_run(runs, now=datetime.now(UTC), try_again_after=wait)
            if why is not None:
                return decided(workspace, Action.LEFT_OUT, why)
            form = onboarding_for(workspace, request, announced)
            # what the run would refuse is refused here, where the table shows it
            onboarding = resolve(form, policy, workspace_name=workspace.name)
            run = await start_onboarding(client, form.model_dump(mode="json"))
        except (
            httpx.TransportError,
            NotStartedError,
            OverrideRefusedError,
            PrefectHTTPStatusError,
            UnnameableKeyError,
            ValidationError,
        ) as error:
            get_run_logger().error("%s: %s", workspace.id, error)
            return decided(workspace, Action.FAILED, str(error))
    return decided(workspace, Action.STARTED, f"key {onboarding.key_name}").model_copy(
        update={"run_id": run.id}
    )


def decided(workspace: Workspace, action: Action, why: str) -> DiscoveryDecision:
    """A decision about this workspace."""
    return DiscoveryDecision(
        workspace_id=workspace.id, workspace_name=workspace.name, action=action, why=why
    )


@uncached_task(name="Publish discovery")
async def publish_discovery(decisions: list[DiscoveryDecision]) -> None:
    """Publish the table of decisions; its versions are the history."""
    await acreate_markdown_artifact(
        markdown=page(decisions), key=PAGE_KEY, description=summary(decisions)
    )


async def start_onboarding(
    client: PrefectClient, request: Mapping[str, Any], *, idempotency_key: str | None = None
) -> FlowRun:
    """Start a run for the request's workspace, or return the one that is under way.

    Args:
        client: Client of the Prefect server.
        request: JSON of an `OnboardingForm`; fields that are left out have their defaults.
        idempotency_key: The same key returns the same run, even one that has ended. Without one,
            the workspace's next free key is used.

    Raises:
        OnboardingMissingError: `prefect deploy` has not been run.
        RequestRefusedError: The request does not fit the deployment's form.
        DifferentRequestError: The key's run, or the run under way, has another request.
        PrefectHTTPStatusError: Any other error response of the server.
    """
    try:
        deployment = await client.read_deployment_by_name(ONBOARDING)
    except ObjectNotFound:
        raise OnboardingMissingError(
            f"deployment {ONBOARDING!r} is not on this server: deploy it with `cmek deploy`, or "
            "check PREFECT_API_URL"
        ) from None
    if idempotency_key is not None:
        run = await _create(client, deployment, request, idempotency_key)
        named = f"idempotency key {idempotency_key!r} belongs to run {run.name} ({run.id}), which"
        advice = "Give another key"
    else:
        run = await _active_run(client, deployment, request)
        named = f"run {run.name} ({run.id}) for {subject_in(request)}"
        advice = "Approve, reject or cancel that run first"
    # for a key that is known, Prefect ignores the new parameters without a word
    differs = request_differences(complete(request), complete(request_in(run.parameters)))
    if differs:
        raise DifferentRequestError(
            f"{named} was started with another request ({'; '.join(differs)}); nothing was "
            f"started now. {advice}"
        )
    return run


async def _active_run(
    client: PrefectClient, deployment: DeploymentResponse, request: Mapping[str, Any]
) -> FlowRun:
    """The workspace's run that has not ended, or a new one; plan-only runs count separately."""
    workspace, plan_only = subject_in(request), bool(request.get("plan_only"))
    number = finished_run_count(await _earlier_runs(client, workspace, plan_only=plan_only))
    while True:
        key = numbered_key(f"plan:{workspace}" if plan_only else workspace, number)
        run = await _create(client, deployment, request, key)
        # the key's run has ended without being counted above: try the next key
        if run.state is None or not run.state.is_final():
            return run
        number += 1


async def _create(
    client: PrefectClient, deployment: DeploymentResponse, request: Mapping[str, Any], key: str
) -> FlowRun:
    try:
        return await client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"request": dict(request)},
            idempotency_key=key,
            tags=[CMEK_TAG, workspace_tag(subject_in(request))],
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 409:  # parameters that do not fit the schema
            raise
        reason = error.response.json().get("detail", error.response.text)
        raise RequestRefusedError(f"the server refused the request: {reason}") from error


async def _earlier_runs(
    client: PrefectClient, workspace_id: str, *, plan_only: bool | None = None
) -> list[EarlierRun]:
    """Onboarding runs for the workspace, in no order; `plan_only` selects those with this flag."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(workspace_id)]))
    return [
        EarlierRun(
            id=run.id,
            name=run.name,
            state=(run.state.name if run.state else None) or "without a state",
            finished=run.state is not None and run.state.is_final(),
            completed=run.state is not None and run.state.is_completed(),
            ended_at=run.end_time,
        )
        async for run in find_runs(client, wanted)
        if plan_only in (None, bool(request_in(run.parameters).get("plan_only")))
    ]
