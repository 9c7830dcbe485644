"""Flow runs: the one that is executing, and those that fit a filter.

What one run must remember across its suspensions, in the run's own result storage.

Only the worker writes there. A task's cached result would do for this, but a look that finds
nothing would be cached as well.

A file is emptied before it is written, so a full disk or a kill can leave a torn one. Everything
is therefore written twice, one after the other: one of the two is whole at any moment.

Pin the request, so that parameters changed later are noticed.

Start an onboarding run once: for people, for discoveries and for callers that retry.

Whether a run that should be executing still gives a sign of life.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import TaskRunContext
from prefect.events.filters import EventFilter, EventNameFilter, EventOrder, EventResourceFilter
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.results import ResultStore, get_result_store
from prefect.runtime import flow_run
from pydantic import BaseModel

from cmek.discovery.rules import EarlierRun, complete, finished_run_count, request_differences
from cmek.discovery.rules import idempotency_key as key_of_epoch
from cmek.errors import CmekError
from cmek.onboarding.request import OnboardingRequest, subject_in
from cmek.tags import CMEK_TAG, workspace_tag

_PAGE: Final = 200


def current_run_id() -> UUID:
    """Its id.

    Raises:
        RuntimeError: Outside a flow run.
    """
    known: str | None = flow_run.id
    if known is None:
        raise RuntimeError("outside a flow run")
    return UUID(known)


async def retag(client: PrefectClient, *tags: str, without: str | None = None) -> None:
    """Add tags to this run.

    Args:
        client: Of the Prefect server.
        tags: To add; one that is there stays.
        without: Tags with this prefix that the run has had are removed.
    """
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


M = TypeVar("M", bound=BaseModel)
_NEXT: Final = ".next"


async def save_state(name: str, value: BaseModel) -> None:
    """Keep `value` under this run and `name`; when that fails, what was kept before stays."""
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
    except (ValueError, TypeError):  # torn, or not ours: pydantic's errors are ValueErrors
        return None


def _store() -> ResultStore:
    # A flow's own store keeps a result's metadata nowhere, so it could not find it again.
    return get_result_store().model_copy(update={"metadata_storage": None})


def _key(name: str, which: str = "") -> str:
    return f"cmek-{current_run_id()}-{name}{which}"


def _run_id_only(context: TaskRunContext, parameters: dict[str, Any]) -> str:  # noqa: ARG001
    return f"cmek-{context.task_run.flow_run_id}-pin"


@task(
    name="Pin the request",
    task_run_name="Pin the request",
    persist_result=True,
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_run_id_only),
)
async def pin_parameters(request: OnboardingRequest) -> OnboardingRequest:
    """The request as this run first saw it, whatever its parameters say by now."""
    return request


ONBOARDING: Final = "onboard-workspace/onboard"


class NotStartedError(CmekError):
    """No onboarding was started; says why and what to do."""


class OnboardingMissingError(NotStartedError):
    """The onboarding deployment is not on this server."""


class RequestRefusedError(NotStartedError):
    """The request does not fit the deployment's form."""


class DifferentRequestError(NotStartedError):
    """The run that the key gives was started with another request."""


async def earlier_runs(client: PrefectClient, workspace_id: str) -> list[EarlierRun]:
    """All onboarding runs for the workspace, in no order that matters."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(workspace_id)]))
    return [_earlier(run) async for run in find_runs(client, wanted)]


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
        run = await _active_run(client, deployment, request)
        named = f"run {run.name} ({run.id}) for {subject_in(request)}"
        advice = "Answer or cancel that run first"
    differs = request_differences(complete(request), complete(run.parameters.get("request") or {}))
    if differs:
        raise DifferentRequestError(
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


async def _active_run(
    client: PrefectClient, deployment: DeploymentResponse, request: Mapping[str, Any]
) -> FlowRun:
    """The workspace's run that has not ended, or a new one."""
    workspace = subject_in(request)
    number = finished_run_count(await earlier_runs(client, workspace))
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


HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_POLL_SECONDS: Final = 2.0


class Liveness(NamedTuple):
    """What the server knows of a run: a change of either field is a sign of life."""

    state_id: UUID | None
    last_heartbeat: UUID | None


async def wait_for_heartbeat(client: PrefectClient, run_id: UUID, seconds: float) -> str | None:
    """Watch a run; what shows that it is not silent, or None when it stayed so.

    Args:
        client: Of the Prefect server.
        run_id: The run to watch.
        seconds: For how long; two heartbeats at least.
    """
    deadline = time.monotonic() + seconds
    first: Liveness | None = None
    while True:
        try:
            run = await client.read_flow_run(run_id)
        except ObjectNotFound:
            return "it was deleted"
        if run.state is None or not (run.state.is_running() or run.state.is_pending()):
            return f"it is {run.state_name or 'without a state'}"
        sign = Liveness(run.state_id, await _last_heartbeat(client, run_id))
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
