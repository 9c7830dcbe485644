"""Start an onboarding run once: for people, for discoveries and for callers that retry."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, Final

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from cmek.discovery.earlier_runs import (
    EarlierRun,
    complete,
    differences,
    epoch,
    idempotency_key,
    workspace_tag,
)
from cmek.request import subject_in

ONBOARDING: Final = "onboard-workspace/onboard"
_PAGE: Final = 200


class OnboardingMissingError(Exception):
    """The onboarding deployment is not on this server."""


class OtherRequestError(Exception):
    """A run for this workspace is under way, for another request; nothing was started."""

    def __init__(self, workspace_id: str, run: FlowRun, differs: tuple[str, ...]) -> None:
        super().__init__(
            f"run {run.name} ({run.id}) for {workspace_id} was started with another request "
            f"({'; '.join(differs)}); nothing was started now. Answer or cancel that run first"
        )
        self.run = run


async def earlier_runs(client: PrefectClient, workspace_id: str) -> list[EarlierRun]:
    """All onboarding runs for the workspace, in no order that matters."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(workspace_id)]))
    runs: list[FlowRun] = []
    while page := await client.read_flow_runs(
        flow_run_filter=wanted, limit=_PAGE, offset=len(runs)
    ):
        runs += page
    return [_earlier(run) for run in runs]


async def start_onboarding(client: PrefectClient, request: Mapping[str, Any]) -> FlowRun:
    """Start a run for the request's workspace, or give the one that is under way.

    Args:
        client: Of the Prefect server.
        request: JSON of an `OnboardingRequest`; fields that are left out have their defaults.

    Raises:
        OnboardingMissingError: `prefect deploy` has not been run.
        OtherRequestError: the run under way was started with something else.
        PrefectHTTPStatusError: 409 when the request does not fit the deployment's form.
    """
    workspace = subject_in(request)
    try:
        deployment = await client.read_deployment_by_name(ONBOARDING)
    except ObjectNotFound:
        raise OnboardingMissingError(
            f"deployment {ONBOARDING!r} is not on this server: deploy it with `cmek deploy`, or "
            "check PREFECT_API_URL"
        ) from None
    for number in count(epoch(await earlier_runs(client, workspace))):
        run = await client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"request": dict(request)},
            idempotency_key=idempotency_key(workspace, number),
            tags=["cmek", workspace_tag(workspace)],
        )
        # a run that ended before anything could tag it is not among the counted ones
        if run.state is None or not run.state.is_final():
            break
    differs = differences(complete(request), complete(run.parameters.get("request") or {}))
    if differs:
        raise OtherRequestError(workspace, run, differs)
    return run


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
