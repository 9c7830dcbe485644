"""Guide step 7 for a workspace that does not exist yet: create it with the key. Never undone."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Final

from prefect import get_run_logger

from cmek.anthropic.client import AdminApi
from cmek.anthropic.errors import (
    AdminApiError,
    ExternalKeyChangedError,
    ExternalKeyValidationTimeoutError,
)
from cmek.anthropic.models import Workspace
from cmek.onboarding.gate import Permit
from cmek.onboarding.request import born_of, data_residency, named, namesakes
from cmek.tags import CREATED_BY_TAG
from tasks._uncached_task import uncached_task
from tasks.attachment import Attached, AttachedElsewhereError, AttachOutcome
from tasks.clients import admin_client
from tasks.sent_creates import CreateInDoubtError, in_doubt, mark_sent, unmark_sent
from tasks.this_run import run_id

SEARCH_AFTER_SECONDS: Final = (0.0, 5.0, 15.0)
"""Pauses before each search for a workspace whose create was not answered."""


class NameTakenError(Exception):
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
    standing = await _standing(api, permit)
    if standing is not None:
        return standing
    await mark_sent()
    if not permit.is_fresh(now=datetime.now(UTC), monotonic=time.monotonic()):
        await unmark_sent()
        return AttachOutcome(outcome=Attached.NOT_YET, why="the permit went stale before sending")
    sent = datetime.now(UTC)
    try:
        workspace = await _send(api, permit)
    except AdminApiError as error:
        return await _after_failure(api, permit, error, sent)
    get_run_logger().info("Created %s with %s", workspace.id, permit.external_key_id)
    return _outcome(Attached.NOW, workspace, workspace.request_id)


async def _send(api: AdminApi, permit: Permit) -> Workspace:
    return await api.workspaces.create(
        _name(permit),
        permit.external_key_id,
        tags={CREATED_BY_TAG: str(run_id())},
        data_residency=data_residency(permit.request.data_residency),
    )


async def _after_failure(
    api: AdminApi, permit: Permit, error: AdminApiError, sent: datetime
) -> AttachOutcome:
    """Only a search tells whether a request that failed took effect."""
    heals = isinstance(error, ExternalKeyValidationTimeoutError | ExternalKeyChangedError)
    if not (error.ambiguous or heals):
        await unmark_sent()
        raise error
    get_run_logger().warning("The create answer is not clear (%s); searching all pages", error)
    for pause in SEARCH_AFTER_SECONDS if error.ambiguous else (0.0,):
        await asyncio.sleep(pause)
        standing = await _standing(api, permit)
        if standing is not None:
            found = {"outcome": Attached.NOW, "request_id": error.request_id}
            return standing.model_copy(update=found)
    if error.ambiguous:
        raise CreateInDoubtError(in_doubt(permit.request.subject, "this run", sent)) from error
    await unmark_sent()
    return AttachOutcome(outcome=Attached.NOT_YET, request_id=error.request_id, why=str(error))


async def _standing(api: AdminApi, permit: Permit) -> AttachOutcome | None:
    """What this run has created already, over all pages."""
    listed = api.workspaces.list(include_archived=True, include_default=True)
    everything = [one async for one in listed]
    ours = born_of(everything, str(run_id()))
    if not ours:
        taken = namesakes(everything, _name(permit))
        if taken:
            raise NameTakenError(
                f"{named(taken)} exists by now, so nothing was created: onboard it by its id"
            )
        return None
    for one in ours:
        if one.external_key_id != permit.external_key_id:
            raise AttachedElsewhereError(
                f"{named([one])}, which this run created, shows the key {one.external_key_id}, "
                f"not {permit.external_key_id}; look at it in the Console"
            )
    return _outcome(Attached.BEFORE, ours[0], ours[0].request_id)


def _name(permit: Permit) -> str:
    name = permit.request.create_workspace
    assert name is not None  # noqa: S101  # a permit for a workspace that exists goes to `attach`
    return name


def _outcome(outcome: Attached, workspace: Workspace, request_id: str | None) -> AttachOutcome:
    return AttachOutcome(outcome=outcome, workspace_id=workspace.id, request_id=request_id)
