"""Find workspaces, and start the onboarding of those that may have one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from prefect import get_client, get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError
from prefect.variables import Variable
from pydantic import BaseModel, ConfigDict, ValidationError

from cmek.admin_activities import WORKSPACE_CREATED
from cmek.admin_api import AdminApi
from cmek.admin_errors import PermissionDenied
from cmek.admin_models import Workspace
from cmek.discovery.decisions import (
    FEED_DELAY,
    OVERLAP,
    Course,
    Cursor,
    Decision,
    page,
    summary,
)
from cmek.discovery.earlier_runs import objection
from cmek.discovery.naming import UnnameableKeyError, onboarding_for
from cmek.discovery.request import DiscoveryRequest
from tasks.clients import admin_client
from tasks.triggering import NotStartedError, earlier_runs, start_onboarding

PAGE_KEY: Final = "cmek-discovery"
_IDS: Final = 100
"""How many workspaces one list can be asked for by id."""
_NOT_STARTED = (
    httpx.TransportError,
    NotStartedError,
    PrefectHTTPStatusError,
    UnnameableKeyError,
)


class Found(BaseModel):
    """Workspaces to consider, and where they were read."""

    model_config = ConfigDict(frozen=True)

    workspaces: tuple[Workspace, ...]
    source: str
    listed: bool
    """Whether these are all workspaces."""


@task(
    name="Find workspaces",
    task_run_name="Find workspaces",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def find_workspaces(request: DiscoveryRequest, cursor: Cursor | None) -> Found:
    """The new ones by the activity feed where that is enough and allowed, else all.

    Raises:
        AdminApiError: neither can be read.
    """
    api = await admin_client(request.anthropic_block)
    now = datetime.now(UTC)
    source = "the list of all workspaces"
    if request.source == "auto" and cursor is not None and cursor.feed_suffices(now):
        try:
            new = await _new_workspaces(api, cursor.covered_until - OVERLAP, now - FEED_DELAY)
        except PermissionDenied:
            source += "; the activity feed is not open to this credential"
        else:
            return Found(workspaces=new, source="the activity feed", listed=False)
    everything = tuple([one async for one in api.workspaces.list()])
    return Found(workspaces=everything, source=source, listed=True)


async def _new_workspaces(api: AdminApi, since: datetime, until: datetime) -> tuple[Workspace, ...]:
    feed = api.activities.list(WORKSPACE_CREATED, since=since, until=until)
    ids = sorted({one.workspace_id async for one in feed if one.workspace_id})
    found: dict[str, Workspace] = {}
    for start in range(0, len(ids), _IDS):
        asked = ids[start : start + _IDS]
        found |= {w.id: w async for w in api.workspaces.list(ids=asked) if w.id in asked}
    return tuple(found.values())


@task(
    name="Start onboarding",
    task_run_name="Start onboarding {workspace.id}",
    cache_policy=NO_CACHE,
    persist_result=False,
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
        why = objection(runs, now=datetime.now(UTC), try_again_after=wait)
        if why is not None:
            return decided(workspace, Course.LEFT_OUT, why)
        try:
            asked = onboarding_for(workspace, request, given)
            run = await start_onboarding(client, asked.model_dump(mode="json"))
        except _NOT_STARTED as error:
            get_run_logger().error("%s: %s", workspace.id, error)
            return decided(workspace, Course.FAILED, str(error))
    return decided(workspace, Course.STARTED, f"key {asked.key_name}").model_copy(
        update={"run_id": run.id}
    )


def decided(workspace: Workspace, course: Course, why: str) -> Decision:
    """A decision about this workspace."""
    return Decision(
        workspace_id=workspace.id, workspace_name=workspace.name, course=course, why=why
    )


async def read_cursor(block: str) -> Cursor | None:
    """How far the last discovery with this block got; None when there was none."""
    kept = await Variable.aget(_variable(block))
    try:
        return Cursor.model_validate(kept) if kept is not None else None
    except ValidationError:
        get_run_logger().warning("variable %s is not ours; listing all", _variable(block))
        return None


async def keep_cursor(block: str, cursor: Cursor) -> None:
    """Remember it; losing it costs one list."""
    try:
        await Variable.aset(_variable(block), cursor.model_dump(mode="json"), overwrite=True)
    except ObjectAlreadyExists:
        # Prefect looks, then creates: another discovery came between, and its cursor will do
        get_run_logger().info("another discovery has kept its cursor at this moment")


@task(
    name="Publish discovery",
    task_run_name="Publish discovery",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def publish_discovery(decisions: list[Decision], source: str) -> None:
    """The table of what was decided; its versions are the history."""
    await acreate_markdown_artifact(
        markdown=page(decisions, source), key=PAGE_KEY, description=summary(decisions)
    )


def _variable(block: str) -> str:
    return f"cmek-discovery-{block}"
