"""Runs of the onboarding deployment, over Prefect's client."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.exceptions import ObjectNotFound

from console.prefect_client import every
from tasks.runs import ONBOARDING


class RunError(RuntimeError):
    """A run could not be found, or a command was given wrongly: says why and what to do."""


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


def suspended_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """All suspended runs of the deployment, over all pages.

    Raises:
        RunError: the deployment is missing.
    """
    try:
        found = client.read_deployment_by_name(ONBOARDING)
    except ObjectNotFound:
        raise RunError(f"deployment {ONBOARDING!r} is not on this server") from None
    wanted = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[found.id]),
        **FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}}).model_dump(
            include={"state"}
        ),
    )
    return list(every(client.read_flow_runs, flow_run_filter=wanted))


def task_runs(client: SyncPrefectClient, run_id: UUID) -> list[TaskRun]:
    """The run's tasks so far, in the order in which they were expected to start."""
    return client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])),
        sort=TaskRunSort.EXPECTED_START_TIME_ASC,
        limit=200,
    )
