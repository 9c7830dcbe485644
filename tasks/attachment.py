"""Guide step 7: attach the key to the workspace. It can never be undone.

Creates of workspaces whose answer may still be on its way, as tags of the runs that sent them.

The Admin API has no idempotency key, so a create that nobody answered may take effect after the
list was searched in vain. The tag is set before the request leaves and removed when it was
refused; while one is young and its run has not completed, nobody sends another create for the name.

Guide step 7 for a workspace that does not exist yet: create it with the key. Never undone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from prefect import get_client, get_run_logger
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from pydantic import JsonValue

from cmek.anthropic.client import AdminApi
from cmek.anthropic.errors import (
    AdminApiError,
    ExternalKeyChangedError,
    ExternalKeyValidationTimeoutError,
)
from cmek.anthropic.models import Workspace
from cmek.errors import CmekError
from cmek.models import FrozenModel
from cmek.onboarding.gate import Permit
from cmek.onboarding.request import (
    created_by_run,
    data_residency,
    same_name_workspaces,
    shown_workspaces,
)
from cmek.tags import CREATE_SENT_PREFIX, CREATED_BY_TAG, workspace_tag
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client
from tasks.runs import current_run_id, find_runs, retag


class AttachResult(StrEnum):
    """How an attach ended; anything that is not one of these is an exception."""

    NOW = "attached"
    BEFORE = "was attached already"
    NOT_YET = "not attached"
    """The workspace has no key still: read, validate and pass the gate again before another try."""


class AttachOutcome(FrozenModel):
    """The outcome and, when there was one, the request id of the attach or create."""

    outcome: AttachResult
    workspace_id: str | None = None
    """Which workspace has the key; None while none has."""
    request_id: str | None = None
    why: str | None = None


class AttachedElsewhereError(CmekError):
    """The workspace has another key. Nobody can change that any more."""


@uncached_task(
    name="7 Attach",
    task_run_name="7 Attach {permit.external_key_id} to {permit.workspace_id}",
    retries=0,
)
async def attach(block: str, permit: Permit) -> AttachOutcome:
    """Read the workspace, then decide; send at most one attach request.

    Args:
        block: Name of the AnthropicAdmin block.
        permit: From `gate.decide`; looked at again right before the request is sent.

    Raises:
        AttachedElsewhereError: The workspace has another key.
        AdminApiError: Refused for a reason that another try would not change.
    """
    api = await admin_client(block)
    standing = await _existing_attachment(api, permit)
    if standing is not None:
        return standing
    if not permit.is_fresh(now=datetime.now(UTC), monotonic=time.monotonic()):
        return AttachOutcome(
            outcome=AttachResult.NOT_YET, why="the permit went stale before sending"
        )
    try:
        workspace = await api.workspaces.update(
            _workspace(permit), external_key_id=permit.external_key_id
        )
    except AdminApiError as error:
        return await _settle_attach(api, permit, error)
    get_run_logger().info("Attached %s to %s", permit.external_key_id, workspace.id)
    return AttachOutcome(
        outcome=AttachResult.NOW, workspace_id=workspace.id, request_id=workspace.request_id
    )


async def _settle_attach(api: AdminApi, permit: Permit, error: AdminApiError) -> AttachOutcome:
    """Only a read tells whether a request that failed took effect."""
    heals = isinstance(error, ExternalKeyValidationTimeoutError | ExternalKeyChangedError)
    if not (error.ambiguous or heals):
        raise error
    get_run_logger().warning("The attach answer is not clear (%s); reading the workspace", error)
    standing = await _existing_attachment(api, permit)
    if standing is not None:
        return standing.model_copy(
            update={"outcome": AttachResult.NOW, "request_id": error.request_id}
        )
    return AttachOutcome(outcome=AttachResult.NOT_YET, request_id=error.request_id, why=str(error))


async def _existing_attachment(api: AdminApi, permit: Permit) -> AttachOutcome | None:
    workspace = await api.workspaces.retrieve(_workspace(permit))
    if workspace.external_key_id is None:
        return None
    if workspace.external_key_id != permit.external_key_id:
        raise AttachedElsewhereError(
            f"workspace {workspace.id} has the key {workspace.external_key_id}, not "
            f"{permit.external_key_id}; it was attached by someone else and can't be changed"
        )
    return AttachOutcome(
        outcome=AttachResult.BEFORE, workspace_id=workspace.id, request_id=workspace.request_id
    )


def _workspace(permit: Permit) -> str:
    workspace_id = permit.workspace_id
    assert workspace_id is not None  # noqa: S101  # a permit for a new one goes to `create`
    return workspace_id


class ReadBack(FrozenModel):
    """What the service says after the attach."""

    workspace_id: str
    workspace_name: str
    external_key_id: str
    key_name: str | None
    attached: bool
    data_residency: dict[str, JsonValue] | None
    request_ids: tuple[str | None, str | None]


class ReadBackMismatchError(CmekError):
    """The service does not show what was attached."""


@uncached_task(
    name="Read back",
    task_run_name="Read back {workspace_id}",
)
async def read_back(
    block: str,
    workspace_id: str,
    external_key_id: str,
    residency: Mapping[str, object] | None = None,
) -> ReadBack:
    """Read workspace and external key after the attach.

    Args:
        block: Name of the AnthropicAdmin block.
        workspace_id: What has the key.
        external_key_id: Which it must be.
        residency: What a new workspace must show; None for one that was there.

    Raises:
        ReadBackMismatchError: The workspace does not show this key, or the key does not show
            itself as attached.
    """
    api = await admin_client(block)
    workspace = await api.workspaces.retrieve(workspace_id)
    key = await api.external_keys.retrieve(external_key_id)
    if workspace.external_key_id != external_key_id or not key.is_attached:
        raise ReadBackMismatchError(
            f"workspace {workspace_id} shows the key {workspace.external_key_id} and "
            f"{external_key_id} shows attachment {key.attachment.type}: look at both in the "
            "Console before anything else is done"
        )
    shown = workspace.data_residency or {}
    if any(shown.get(name) != value for name, value in (residency or {}).items()):
        raise ReadBackMismatchError(
            f"workspace {workspace_id} has its key, but shows the data residency {shown}, not "
            f"{dict(residency or {})}: change it in the Console"
        )
    return ReadBack(
        workspace_id=workspace.id,
        workspace_name=workspace.name,
        external_key_id=key.id,
        key_name=key.gcp_key_name,
        attached=key.is_attached,
        data_residency=workspace.data_residency,
        request_ids=(workspace.request_id, key.request_id),
    )


PENDING_CREATE_LIFETIME: Final = timedelta(minutes=10)
"""How long a request may be under way: the official SDK gives up waiting then (600 s)."""


class CreateOutcomeUnknownError(CmekError):
    """A create was sent, nobody knows its outcome, and it may still take effect."""


async def record_pending_create() -> None:
    """Before a create is sent: note it where every later run sees it."""
    async with get_client() as client:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        await retag(client, f"{CREATE_SENT_PREFIX}{now}", without=CREATE_SENT_PREFIX)


async def clear_pending_create() -> None:
    """It was refused, or never left: nothing was created."""
    async with get_client() as client:
        await retag(client, without=CREATE_SENT_PREFIX)


async def ensure_no_pending_create(subject: str) -> None:
    """Go on only when no create for this subject may still be under way.

    Raises:
        CreateInDoubtError: One may; says which run sent it and when it counts as lost.
    """
    now = datetime.now(UTC)
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(subject)]))
    async with get_client() as client:
        async for run in find_runs(client, wanted):
            if run.state is not None and run.state.is_completed():
                continue  # it knew the outcome
            for sent in _pending_creates(run):
                if now < sent + PENDING_CREATE_LIFETIME:
                    raise CreateOutcomeUnknownError(
                        outcome_unknown(subject, f"run {run.name} ({run.id})", sent)
                    )


def outcome_unknown(subject: str, sender: str, sent: datetime) -> str:
    """The message that sends people away until the create counts as lost."""
    return (
        f"{sender} sent a create for {subject} at {sent:%Y-%m-%d %H:%M:%S} UTC and got no clear "
        f"answer, and no workspace with its tag is there so far; it may still appear. Nothing else "
        f"was sent. Retry after {sent + PENDING_CREATE_LIFETIME:%H:%M:%S} UTC: the run looks again "
        "before it goes on"
    )


def _pending_creates(run: FlowRun) -> list[datetime]:
    marks = [
        tag.removeprefix(CREATE_SENT_PREFIX)
        for tag in run.tags
        if tag.startswith(CREATE_SENT_PREFIX)
    ]
    return [datetime.fromisoformat(mark) for mark in marks]


SEARCH_AFTER_SECONDS: Final = (0.0, 5.0, 15.0)
"""Pauses before each search for a workspace whose create was not answered."""


class NameTakenError(CmekError):
    """Somebody has made a workspace of this name since the plan was approved."""


@uncached_task(
    name="7 Create",
    task_run_name="7 Create {permit.request.create_workspace} with {permit.external_key_id}",
    retries=0,
)
async def create(block: str, permit: Permit) -> AttachOutcome:
    """Search all workspaces for this run's tag, then decide; send at most one create.

    Args:
        block: Name of the AnthropicAdmin block.
        permit: From `gate.decide`; looked at again right before the request is sent.

    Raises:
        NameTakenError: Another workspace has the name.
        AttachedElsewhereError: This run's workspace has another key.
        CreateInDoubtError: No clear answer, and no workspace with the tag so far.
        AdminApiError: Refused for a reason that another try would not change.
    """
    api = await admin_client(block)
    standing = await _existing_creation(api, permit)
    if standing is not None:
        return standing
    await record_pending_create()
    if not permit.is_fresh(now=datetime.now(UTC), monotonic=time.monotonic()):
        await clear_pending_create()
        return AttachOutcome(
            outcome=AttachResult.NOT_YET, why="the permit went stale before sending"
        )
    sent = datetime.now(UTC)
    try:
        workspace = await _send(api, permit)
    except AdminApiError as error:
        return await _settle_create(api, permit, error, sent)
    get_run_logger().info("Created %s with %s", workspace.id, permit.external_key_id)
    return _outcome(AttachResult.NOW, workspace, workspace.request_id)


async def _send(api: AdminApi, permit: Permit) -> Workspace:
    return await api.workspaces.create(
        _name(permit),
        permit.external_key_id,
        tags={CREATED_BY_TAG: str(current_run_id())},
        data_residency=data_residency(permit.request.data_residency),
    )


async def _settle_create(
    api: AdminApi, permit: Permit, error: AdminApiError, sent: datetime
) -> AttachOutcome:
    """Only a search tells whether a request that failed took effect."""
    heals = isinstance(error, ExternalKeyValidationTimeoutError | ExternalKeyChangedError)
    if not (error.ambiguous or heals):
        await clear_pending_create()
        raise error
    get_run_logger().warning("The create answer is not clear (%s); searching all pages", error)
    for pause in SEARCH_AFTER_SECONDS if error.ambiguous else (0.0,):
        await asyncio.sleep(pause)
        standing = await _existing_creation(api, permit)
        if standing is not None:
            found = {"outcome": AttachResult.NOW, "request_id": error.request_id}
            return standing.model_copy(update=found)
    if error.ambiguous:
        raise CreateOutcomeUnknownError(
            outcome_unknown(permit.request.subject, "this run", sent)
        ) from error
    await clear_pending_create()
    return AttachOutcome(outcome=AttachResult.NOT_YET, request_id=error.request_id, why=str(error))


async def _existing_creation(api: AdminApi, permit: Permit) -> AttachOutcome | None:
    """What this run has created already, over all pages."""
    listed = api.workspaces.list(include_archived=True, include_default=True)
    everything = [one async for one in listed]
    ours = created_by_run(everything, str(current_run_id()))
    if not ours:
        taken = same_name_workspaces(everything, _name(permit))
        if taken:
            raise NameTakenError(
                f"{shown_workspaces(taken)} exists by now, so nothing was created: onboard it by "
                "its id"
            )
        return None
    for one in ours:
        if one.external_key_id != permit.external_key_id:
            raise AttachedElsewhereError(
                f"{shown_workspaces([one])}, which this run created, shows the key "
                f"{one.external_key_id}, not {permit.external_key_id}; look at it in the Console"
            )
    return _outcome(AttachResult.BEFORE, ours[0], ours[0].request_id)


def _name(permit: Permit) -> str:
    name = permit.request.create_workspace
    assert name is not None  # noqa: S101  # a permit for a workspace that exists goes to `attach`
    return name


def _outcome(outcome: AttachResult, workspace: Workspace, request_id: str | None) -> AttachOutcome:
    return AttachOutcome(outcome=outcome, workspace_id=workspace.id, request_id=request_id)
