"""Start an onboarding run once: for people, for discoveries and for callers that retry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from cmek.discovery.rules import EarlierRun, complete, differences, epoch
from cmek.discovery.rules import idempotency_key as key_of_epoch
from cmek.onboarding.request import subject_in
from cmek.tags import CMEK_TAG, workspace_tag
from tasks.this_run import runs_that_fit

ONBOARDING: Final = "onboard-workspace/onboard"


class NotStartedError(Exception):
    """No onboarding was started; says why and what to do."""


class OnboardingMissingError(NotStartedError):
    """The onboarding deployment is not on this server."""


class RequestRefusedError(NotStartedError):
    """The request does not fit the deployment's form."""


class OtherRequestError(NotStartedError):
    """The run that the key gives was started with another request."""


async def earlier_runs(client: PrefectClient, workspace_id: str) -> list[EarlierRun]:
    """All onboarding runs for the workspace, in no order that matters."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(workspace_id)]))
    return [_earlier(run) async for run in runs_that_fit(client, wanted)]


async def start_onboarding(
    client: PrefectClient, request: Mapping[str, Any], *, idempotency_key: str | None = None
) -> FlowRun:
    """Start a run for the request's workspace, or give the one that is under way.

    Args:
        client: Of the Prefect server.
        request: JSON of an `OnboardingRequest`; fields that are left out have their defaults.
        idempotency_key: The same key gives the same run, also when that has ended. Without one,
            the key is the workspace's next free one.

    Raises:
        OnboardingMissingError: `prefect deploy` has not been run.
        RequestRefusedError: The request does not fit the deployment's form.
        OtherRequestError: The key's run, or the run under way, was started with something else.
        PrefectHTTPStatusError: Any other answer of the server that is an error.
    """
    deployment = await _deployment(client)
    if idempotency_key is not None:
        run = await _create(client, deployment, request, idempotency_key)
        named = f"idempotency key {idempotency_key!r} belongs to run {run.name} ({run.id}), which"
        advice = "Give another key"
    else:
        run = await _under_way(client, deployment, request)
        named = f"run {run.name} ({run.id}) for {subject_in(request)}"
        advice = "Answer or cancel that run first"
    differs = differences(complete(request), complete(run.parameters.get("request") or {}))
    if differs:
        raise OtherRequestError(
            f"{named} was started with another request ({'; '.join(differs)}); nothing was "
            f"started now. {advice}"
        )
    return run


async def _deployment(client: PrefectClient) -> DeploymentResponse:
    try:
        return await client.read_deployment_by_name(ONBOARDING)
    except ObjectNotFound:
        raise OnboardingMissingError(
            f"deployment {ONBOARDING!r} is not on this server: deploy it with `cmek deploy`, or "
            "check PREFECT_API_URL"
        ) from None


async def _under_way(
    client: PrefectClient, deployment: DeploymentResponse, request: Mapping[str, Any]
) -> FlowRun:
    """The workspace's run that has not ended, or a new one."""
    workspace = subject_in(request)
    number = epoch(await earlier_runs(client, workspace))
    while True:
        run = await _create(client, deployment, request, key_of_epoch(workspace, number))
        # a run that ended before anything could tag it is not among the counted ones
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
        if error.response.status_code != 409:
            raise
        reason = error.response.json().get("detail", error.response.text)
        raise RequestRefusedError(f"the server refused the request: {reason}") from error


def _earlier(run: FlowRun) -> EarlierRun:
    state = run.state
    return EarlierRun(
        id=run.id,
        name=run.name,
        state=(state.name if state else None) or "without a state",
        finished=state is not None and state.is_final(),
        completed=state is not None and state.is_completed(),
        ended_at=run.end_time,
    )
