"""Runs of the onboarding deployment, over Prefect's client: start, find, wait."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

DEPLOYMENT: Final = "onboard-workspace/onboard"
ATTACHED_STATES: Final = frozenset({"Attached", "Already attached"})
"""The names of the states in which the workspace has its key."""
_POLL_SECONDS = 0.3
_PAGE = 200


class RunError(RuntimeError):
    """A run could not be started or found: says why and what to do."""


def start_run(
    client: SyncPrefectClient,
    request: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    deployment: str = DEPLOYMENT,
) -> FlowRun:
    """Start an onboarding; the same idempotency key gives the run that it gave before.

    Raises:
        RunError: the deployment is missing, or the request does not fit its form.
    """
    try:
        found = client.read_deployment_by_name(deployment)
        return client.create_flow_run_from_deployment(
            found.id, parameters={"request": dict(request)}, idempotency_key=idempotency_key
        )
    except ObjectNotFound:
        raise RunError(
            f"deployment {deployment!r} is not on this server: deploy it with"
            " `prefect deploy --all`, or check PREFECT_API_URL"
        ) from None
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 409:
            raise
        reason = error.response.json().get("detail", error.response.text)
        raise RunError(f"the server refused the request: {reason}") from error


def is_run_of(run: FlowRun, request: Mapping[str, Any]) -> bool:
    """Whether the run was started with this request: an idempotency key may return another's."""
    given: dict[str, Any] = run.parameters.get("request") or {}
    return all(given.get(name) == value for name, value in request.items())


def find_run(client: SyncPrefectClient, name_or_id: str) -> FlowRun:
    """Read a run by its id, or by its name when only one has it.

    Raises:
        RunError: none or several fit.
    """
    try:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(name_or_id)]))
    except ValueError:
        wanted = FlowRunFilter.model_validate({"name": {"any_": [name_or_id]}})
    runs = client.read_flow_runs(flow_run_filter=wanted, limit=2)
    if len(runs) != 1:
        many = "no run" if not runs else "more than one run"
        raise RunError(f"run {name_or_id!r}: {many} of this id or name; `cmek pending` lists ids")
    return runs[0]


def suspended_runs(client: SyncPrefectClient, *, deployment: str = DEPLOYMENT) -> list[FlowRun]:
    """All suspended runs of the deployment, over all pages.

    Raises:
        RunError: the deployment is missing.
    """
    try:
        found = client.read_deployment_by_name(deployment)
    except ObjectNotFound:
        raise RunError(f"deployment {deployment!r} is not on this server") from None
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[found.id]),
        **FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}}).model_dump(
            include={"state"}
        ),
    )
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=len(runs)):
        runs += page
    return runs


def wait_for_state(
    client: SyncPrefectClient, run_id: UUID, names: set[str], *, seconds: float
) -> FlowRun:
    """Wait until the run's state has one of the names.

    Raises:
        TimeoutError: it did not come; says in which state the run is.
        RunError: the run ended in a state of another name.
    """
    deadline = time.monotonic() + seconds
    while True:
        run = client.read_flow_run(run_id)
        state = run.state
        if state is not None and state.name in names:
            return run
        seen = "no state" if state is None else f"{state.name}: {state.message or ''}"
        if state is not None and state.is_final():
            raise RunError(f"run {run.name} ended as {seen}, while waiting for {sorted(names)}")
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"run {run.name} is {seen} after {seconds:.0f} s, not {sorted(names)}"
            )
        time.sleep(_POLL_SECONDS)


def task_runs(client: SyncPrefectClient, run_id: UUID) -> list[TaskRun]:
    """The run's tasks so far, in the order in which they were expected to start."""
    return client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        sort=TaskRunSort.EXPECTED_START_TIME_ASC,
        limit=_PAGE,
    )
