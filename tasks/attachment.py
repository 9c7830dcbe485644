"""Guide step 7: attach the key to the workspace. It can never be undone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum

from prefect import get_run_logger
from pydantic import JsonValue

from cmek.anthropic.client import AdminApi
from cmek.anthropic.errors import (
    AdminApiError,
    ExternalKeyChangedError,
    ExternalKeyValidationTimeoutError,
)
from cmek.models import FrozenModel
from cmek.onboarding.gate import Permit
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client


class Attached(StrEnum):
    """How an attach ended; anything that is not one of these is an exception."""

    NOW = "attached"
    BEFORE = "was attached already"
    NOT_YET = "not attached"
    """The workspace has no key still: read, validate and pass the gate again before another try."""


class AttachOutcome(FrozenModel):
    """The outcome and, when there was one, the request id of the attach or create."""

    outcome: Attached
    workspace_id: str | None = None
    """Which workspace has the key; None while none has."""
    request_id: str | None = None
    why: str | None = None


class AttachedElsewhereError(Exception):
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
    standing = await _standing(api, permit)
    if standing is not None:
        return standing
    if not permit.is_fresh(now=datetime.now(UTC), monotonic=time.monotonic()):
        return AttachOutcome(outcome=Attached.NOT_YET, why="the permit went stale before sending")
    try:
        workspace = await api.workspaces.update(
            _workspace(permit), external_key_id=permit.external_key_id
        )
    except AdminApiError as error:
        return await _after_failure(api, permit, error)
    get_run_logger().info("Attached %s to %s", permit.external_key_id, workspace.id)
    return AttachOutcome(
        outcome=Attached.NOW, workspace_id=workspace.id, request_id=workspace.request_id
    )


async def _after_failure(api: AdminApi, permit: Permit, error: AdminApiError) -> AttachOutcome:
    """Only a read tells whether a request that failed took effect."""
    heals = isinstance(error, ExternalKeyValidationTimeoutError | ExternalKeyChangedError)
    if not (error.ambiguous or heals):
        raise error
    get_run_logger().warning("The attach answer is not clear (%s); reading the workspace", error)
    standing = await _standing(api, permit)
    if standing is not None:
        return standing.model_copy(update={"outcome": Attached.NOW, "request_id": error.request_id})
    return AttachOutcome(outcome=Attached.NOT_YET, request_id=error.request_id, why=str(error))


async def _standing(api: AdminApi, permit: Permit) -> AttachOutcome | None:
    workspace = await api.workspaces.retrieve(_workspace(permit))
    if workspace.external_key_id is None:
        return None
    if workspace.external_key_id != permit.external_key_id:
        raise AttachedElsewhereError(
            f"workspace {workspace.id} has the key {workspace.external_key_id}, not "
            f"{permit.external_key_id}; it was attached by someone else and can't be changed"
        )
    return AttachOutcome(
        outcome=Attached.BEFORE, workspace_id=workspace.id, request_id=workspace.request_id
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


class ReadBackMismatchError(Exception):
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
