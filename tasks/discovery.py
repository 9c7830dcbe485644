"""Find workspaces, and start the onboarding of those that may have one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from prefect import get_client, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.exceptions import PrefectHTTPStatusError

from cmek.anthropic.models import Workspace
from cmek.discovery.request import DiscoveryRequest
from cmek.discovery.rules import (
    Action,
    Decision,
    UnnameableKeyError,
    blocking_run,
    onboarding_for,
    page,
    summary,
)
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client
from tasks.runs import NotStartedError, earlier_runs, start_onboarding

PAGE_KEY: Final = "cmek-discovery"
_NOT_STARTED = (
    httpx.TransportError,
    NotStartedError,
    PrefectHTTPStatusError,
    UnnameableKeyError,
)


@uncached_task(
    name="Find workspaces",
    task_run_name="Find workspaces",
)
async def find_workspaces(request: DiscoveryRequest) -> tuple[Workspace, ...]:
    """All workspaces that are not archived.

    Raises:
        AdminApiError: They can't be read.
    """
    api = await admin_client(request.anthropic_block)
    return tuple([one async for one in api.workspaces.list()])


@uncached_task(
    name="Start onboarding",
    task_run_name="Start onboarding {workspace.id}",
)
async def start_once(
    request: DiscoveryRequest, workspace: Workspace, given: Mapping[str, Any] | None = None
) -> Decision:
    """Start the workspace's onboarding unless an earlier run speaks against it.

    Args:
        request: The discovery's.
        workspace: Fit and wanted.
        given: Fields that were announced for this workspace.
    """
    async with get_client() as client:
        runs = await earlier_runs(client, workspace.id)
        wait = timedelta(hours=request.try_again_after_hours)
        why = blocking_run(runs, now=datetime.now(UTC), try_again_after=wait)
        if why is not None:
            return decided(workspace, Action.LEFT_OUT, why)
        try:
            asked = onboarding_for(workspace, request, given)
            run = await start_onboarding(client, asked.model_dump(mode="json"))
        except _NOT_STARTED as error:
            get_run_logger().error("%s: %s", workspace.id, error)
            return decided(workspace, Action.FAILED, str(error))
    return decided(workspace, Action.STARTED, f"key {asked.key_name}").model_copy(
        update={"run_id": run.id}
    )


def decided(workspace: Workspace, action: Action, why: str) -> Decision:
    """A decision about this workspace."""
    return Decision(
        workspace_id=workspace.id, workspace_name=workspace.name, action=action, why=why
    )


@uncached_task(
    name="Publish discovery",
    task_run_name="Publish discovery",
)
async def publish_discovery(decisions: list[Decision]) -> None:
    """The table of what was decided; its versions are the history."""
    await acreate_markdown_artifact(
        markdown=page(decisions), key=PAGE_KEY, description=summary(decisions)
    )
