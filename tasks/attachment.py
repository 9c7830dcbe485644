"""Guide step 7: attach the key to the workspace, or create the workspace with it. Irreversible.

Both tasks follow one procedure: read what exists, check that the permit is still fresh, send at
most once, and after a failure read again. The Admin API has no idempotency key, so a create
whose outcome is unknown may take effect later. A tag on the run is therefore set before a create
is sent and removed when it was refused; while the tag is recent and its run has not completed, no
run sends another create for the name.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

import anyio
from prefect import get_client, get_run_logger
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from pydantic import JsonValue

from cmek.anthropic.client import PENDING_CREATE_LIFETIME, AdminApi
from cmek.anthropic.errors import (
    AdminApiError,
    ApprovalSpentError,
    ExternalKeyChangedError,
    ExternalKeyValidationTimeoutError,
    GatewayNotSentError,
    WorkspaceCreatedIncompleteError,
)
from cmek.anthropic.models import Workspace
from cmek.errors import CmekError
from cmek.models import FrozenModel
from cmek.onboarding.gate import STEADY, Permit
from cmek.onboarding.request import (
    created_by_run,
    data_residency,
    same_name_workspaces,
    shown_workspaces,
)
from cmek.outcomes import HAS_ITS_KEY
from cmek.tags import (
    CREATE_SENT_PREFIX,
    CREATED_BY_TAG,
    CREATED_INCOMPLETE_PREFIX,
    workspace_tag,
)
from tasks._task_options import uncached_task
from tasks.clients import admin_client
from tasks.runs import current_run_id, find_runs, never_ends_the_run, retag

SEARCH_AFTER_SECONDS: Final = (0.0, 5.0, 15.0)
"""Pauses before each search for a workspace whose create got no response."""


class AttachResult(StrEnum):
    """How an attach ended; anything that is not one of these is an exception."""

    NOW = "attached"
    BEFORE = "was attached already"
    NOT_YET = "not attached"
    """The workspace has no key; another try needs new reads, a validation and the gate again."""


class AttachOutcome(FrozenModel):
    """The outcome and, when there was one, the request id of the attach or create."""

    outcome: AttachResult
    workspace_id: str | None = None
    """The workspace with the key; None for NOT_YET."""
    request_id: str | None = None
    why: str | None = None
    sent_at: datetime | None = None
    """For NOT_YET: when a request was sent that may still take effect; None if there is none."""


class AttachedElsewhereError(CmekError):
    """The workspace has another key, which can't be changed any more."""


class NameTakenError(CmekError):
    """A workspace of this name was made after the plan was approved."""


class IncompleteWorkspaceError(CmekError):
    """A create made the workspace but not all of it, and must never be sent again."""


class AttachOutcomeUnknownError(CmekError):
    """An attach was sent, its outcome is unknown, and the workspace could not be read."""


class CreateOutcomeUnknownError(CmekError):
    """A create was sent, its outcome is unknown, and it may still take effect."""


@uncached_task(
    name="7 Attach",
    retries=0,
)
async def attach(block: str, permit: Permit) -> AttachOutcome:
    """Read the workspace, then decide; send at most one attach request.

    Args:
        block: Name of the AnthropicAdmin block.
        permit: From `gate.decide`; checked again right before the request is sent.

    Raises:
        AttachedElsewhereError: The workspace has another key.
        AttachOutcomeUnknownError: No clear response, and the workspace could not be read after it.
        AdminApiError: Refused for a reason that another try would not change.
    """
    return await _send_once(_Attach(await admin_client(block), permit))


@uncached_task(
    name="7 Create",
    retries=0,
)
async def create(block: str, permit: Permit) -> AttachOutcome:
    """Search all workspaces for this run's tag, then decide; send at most one create.

    Args:
        block: Name of the AnthropicAdmin block.
        permit: From `gate.decide`; checked again right before the request is sent.

    Raises:
        NameTakenError: Another workspace has the name.
        AttachedElsewhereError: This run's workspace has another key.
        CreateOutcomeUnknownError: No clear response, and no workspace with the tag so far.
        IncompleteWorkspaceError: The workspace was created without its key.
        AdminApiError: Refused for a reason that another try would not change.
    """
    return await _send_once(_Create(await admin_client(block), permit))


class _StalePermitError(Exception):
    """Nothing was sent, since reads or the credential took too long."""


@dataclass(frozen=True, slots=True)
class _Step(ABC):
    """What differs between an attach and a create."""

    api: AdminApi
    permit: Permit

    @abstractmethod
    async def existing(self) -> Workspace | None:
        """Read whether a workspace has this key already; that workspace, or None."""

    @abstractmethod
    async def send(self) -> Workspace:
        """Send the one request that writes, with `ensure_fresh` as its last check."""

    def ensure_fresh(self) -> None:
        """Make sure that the permit still counts.

        Raises:
            _StalePermitError: It is too old by now.
        """
        if not self.permit.is_fresh(now=datetime.now(UTC), monotonic=time.clock_gettime(STEADY)):
            raise _StalePermitError("the permit went stale before sending")

    async def before_sending(self) -> None:  # noqa: B027 - an attach needs no record
        """Record that a request is about to be sent."""

    async def not_sent(self) -> None:  # noqa: B027 - as above
        """Take that record back: the request was refused or never sent, so it has no effect."""

    @abstractmethod
    async def read_after_failure(self, error: AdminApiError, sent: datetime) -> Workspace | None:
        """Read after a request of unknown outcome; the workspace if it has the key, else None."""


async def _send_once(step: _Step) -> AttachOutcome:
    """The one procedure of guide step 7."""
    permit = step.permit
    existing = await step.existing()
    if existing is not None:
        return _outcome(AttachResult.BEFORE, existing, existing.request_id)
    await step.before_sending()
    sending = asyncio.ensure_future(_send_and_settle(step))
    try:
        return await asyncio.shield(sending)
    except asyncio.CancelledError:
        # the request may have left, so its outcome is read and logged before the run ends; Prefect
        # cancels by a scope of anyio, which cancels again at every turn
        with anyio.CancelScope(shield=True):
            await asyncio.wait([sending])
        get_run_logger().error(
            "The run was ended while it attached %s to %s: %s. Retry the run: it reads the "
            "workspace first",
            permit.external_key_id,
            permit.request.subject,
            "outcome unknown"
            if sending.cancelled()
            else sending.exception() or sending.result().outcome,
        )
        raise


async def _send_and_settle(step: _Step) -> AttachOutcome:
    """Send the one request, and read what became of it where its response does not say."""
    sent = datetime.now(UTC)
    try:
        workspace = await step.send()
    except _StalePermitError as error:
        await step.not_sent()
        return AttachOutcome(outcome=AttachResult.NOT_YET, why=str(error))
    except AdminApiError as error:
        return await _settle(step, error, sent)
    get_run_logger().info("Attached %s to %s", step.permit.external_key_id, workspace.id)
    return _outcome(AttachResult.NOW, workspace, workspace.request_id)


async def _settle(step: _Step, error: AdminApiError, sent: datetime) -> AttachOutcome:
    """Read whether a failed request took effect: only a read can show it."""
    if not _is_unclear(error):
        await step.not_sent()
        return await _after_refusal(step, error)
    get_run_logger().warning("The outcome is not clear (%s); reading again", error)
    existing = await step.read_after_failure(error, sent)
    if existing is not None:
        return _outcome(AttachResult.NOW, existing, error.request_id)
    return AttachOutcome(
        outcome=AttachResult.NOT_YET, request_id=error.request_id, why=str(error), sent_at=sent
    )


async def _after_refusal(step: _Step, error: AdminApiError) -> AttachOutcome:
    """NOT_YET if the reason of a refusal may have passed at the next try; else the refusal."""
    passing = ExternalKeyValidationTimeoutError | ExternalKeyChangedError | GatewayNotSentError
    if not isinstance(error, passing):
        raise error
    try:
        existing = await step.existing()
    except AdminApiError:
        raise error from None  # what it says is certain, whatever can be read
    if existing is not None:
        return _outcome(AttachResult.BEFORE, existing, existing.request_id)
    return AttachOutcome(outcome=AttachResult.NOT_YET, request_id=error.request_id, why=str(error))


def _is_unclear(error: AdminApiError) -> bool:
    """Whether this request, or an earlier one with the same approval, may have taken effect."""
    return error.ambiguous or isinstance(error, ApprovalSpentError)


def _outcome(outcome: AttachResult, workspace: Workspace, request_id: str | None) -> AttachOutcome:
    return AttachOutcome(outcome=outcome, workspace_id=workspace.id, request_id=request_id)


class _Attach(_Step):
    async def existing(self) -> Workspace | None:
        workspace = await self.api.workspaces.retrieve(self._workspace_id)
        if workspace.external_key_id is None:
            return None
        if workspace.external_key_id != self.permit.external_key_id:
            raise AttachedElsewhereError(
                f"workspace {workspace.id} has the key {workspace.external_key_id}, not "
                f"{self.permit.external_key_id}; it was attached by someone else and can't be "
                "changed"
            )
        return workspace

    async def send(self) -> Workspace:
        return await self.api.workspaces.update(
            self._workspace_id,
            external_key_id=self.permit.external_key_id,
            signed_approvals=self.permit.signed_approvals,
            last_check=self.ensure_fresh,
        )

    async def read_after_failure(self, error: AdminApiError, sent: datetime) -> Workspace | None:
        try:
            return await self.existing()
        except AdminApiError as unread:
            raise AttachOutcomeUnknownError(
                f"an attach of {self.permit.external_key_id} to {self._workspace_id} was sent at "
                f"{sent:%Y-%m-%d %H:%M:%S} UTC, and whether it took effect is not known: {error} "
                f"Reading the workspace failed: {unread} Retry the run: it reads the workspace "
                "before anything else"
            ) from error

    @property
    def _workspace_id(self) -> str:
        workspace_id = self.permit.workspace_id
        assert workspace_id is not None  # noqa: S101  # a permit for a new one goes to `create`
        return workspace_id


class _Create(_Step):
    async def existing(self) -> Workspace | None:
        """Search all pages for the workspace that this run has created already."""
        everything = await self.api.workspaces.everything()
        # by the run's tag: the same name could be somebody else's workspace
        ours = created_by_run(everything, str(current_run_id()))
        if not ours:
            taken = same_name_workspaces(everything, self._name)
            if taken:
                raise NameTakenError(
                    f"{shown_workspaces(taken)} exists by now, and this run did not make it: "
                    "onboard it by its id"
                )
            return None
        for one in ours:
            if one.external_key_id != self.permit.external_key_id:
                raise AttachedElsewhereError(
                    f"{shown_workspaces([one])}, which this run created, shows the key "
                    f"{one.external_key_id}, not {self.permit.external_key_id}; check it in the "
                    "Console"
                )
        return ours[0]

    async def send(self) -> Workspace:
        return await self.api.workspaces.create(
            self._name,
            self.permit.external_key_id,
            # finds the workspace again if the response is lost
            tags={CREATED_BY_TAG: str(current_run_id())},
            data_residency=data_residency(self.permit.request.data_residency),
            signed_approvals=self.permit.signed_approvals,
            last_check=self.ensure_fresh,
        )

    async def before_sending(self) -> None:
        await record_pending_create()

    async def not_sent(self) -> None:
        await _after_sending(clear_pending_create())

    async def read_after_failure(self, error: AdminApiError, sent: datetime) -> Workspace:
        if isinstance(error, WorkspaceCreatedIncompleteError) and error.workspace_id is not None:
            return await self._complete(error, error.workspace_id)
        unknown = _outcome_unknown(self.permit.request.subject, "this run", sent)
        # a create may become visible some time after its response was lost
        for pause in SEARCH_AFTER_SECONDS:
            await asyncio.sleep(pause)
            try:
                existing = await self.existing()
            except NameTakenError as taken:
                raise CreateOutcomeUnknownError(
                    f"{taken}; it may be what this run's create made, of which the "
                    f"outcome is not known: {error}"
                ) from error
            except AdminApiError as unread:
                raise CreateOutcomeUnknownError(
                    f"{unknown}. The last search failed: {unread}"
                ) from error
            if existing is not None:
                return existing
        raise CreateOutcomeUnknownError(unknown) from error

    async def _complete(self, error: AdminApiError, workspace_id: str) -> Workspace:
        """The workspace that an incomplete create made, if it has its key nevertheless."""
        # before anything can fail: from now on no run for this name may create again
        await _after_sending(record_incomplete_create(workspace_id))
        try:
            workspace = await self.api.workspaces.retrieve(workspace_id)
        except AdminApiError as unread:
            raise IncompleteWorkspaceError(f"{error} Reading it failed: {unread}") from unread
        if workspace.external_key_id != self.permit.external_key_id:
            raise IncompleteWorkspaceError(
                f"{shown_workspaces([workspace])} was created, but shows the key "
                f"{workspace.external_key_id}, not {self.permit.external_key_id}. {error}"
            )
        return workspace

    @property
    def _name(self) -> str:
        name = self.permit.request.create_workspace
        assert name is not None  # noqa: S101  # a permit for an existing one goes to `attach`
        return name


async def _after_sending(tagging: Awaitable[None]) -> None:
    """Change the run's tag; if that fails, the old tag stays, which only forbids more."""
    with never_ends_the_run(
        f"The tag {CREATE_SENT_PREFIX}… stays on this run, so no other run creates a workspace of "
        f"this name within {PENDING_CREATE_LIFETIME}"
    ):
        await tagging


async def record_pending_create() -> None:
    """Tag this run before a create is sent; every later run for the name sees the tag."""
    async with get_client() as client:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        await retag(client, f"{CREATE_SENT_PREFIX}{now}", without=CREATE_SENT_PREFIX)


async def clear_pending_create() -> None:
    """Remove that tag: the create was refused or never sent, so nothing was created."""
    async with get_client() as client:
        await retag(client, without=CREATE_SENT_PREFIX)


async def record_incomplete_create(workspace_id: str) -> None:
    """Replace that tag by one with the workspace's id; no run for the name creates again."""
    async with get_client() as client:
        tag = f"{CREATED_INCOMPLETE_PREFIX}{workspace_id}"
        await retag(client, tag, without=CREATE_SENT_PREFIX)


async def ensure_no_pending_create(subject: str) -> None:
    """Make sure that no create for this subject may still take effect.

    Raises:
        CreateOutcomeUnknownError: One may. Names the run that sent it and when to try again; or
            the tag that holds no valid time, and what to do.
        IncompleteWorkspaceError: One made a workspace that the search does not find; names it.
    """
    now = datetime.now(UTC)
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(subject)]))
    async with get_client() as client:
        async for run in find_runs(client, wanted):
            if run.state_name in HAS_ITS_KEY:
                continue  # the outcome of its create is known; that of a duplicate may not be
            for tag in run.tags:
                if tag.startswith(CREATED_INCOMPLETE_PREFIX):
                    workspace_id = tag.removeprefix(CREATED_INCOMPLETE_PREFIX)
                    raise IncompleteWorkspaceError(
                        f"run {run.name} ({run.id}) created {workspace_id} for {subject}, but not "
                        "completely, so nothing is created again. Look at it in the Console, and "
                        "onboard it by its id"
                    )
                if not tag.startswith(CREATE_SENT_PREFIX):
                    continue
                sent = _time_sent(tag, now)
                if sent is None:
                    raise CreateOutcomeUnknownError(_time_unknown(subject, run, tag))
                if now < sent + PENDING_CREATE_LIFETIME:
                    raise CreateOutcomeUnknownError(
                        _outcome_unknown(subject, f"run {run.name} ({run.id})", sent)
                    )


def _time_sent(tag: str, now: datetime) -> datetime | None:
    """When the create was sent; None when somebody has changed the tag to no valid time."""
    try:
        sent = datetime.fromisoformat(tag.removeprefix(CREATE_SENT_PREFIX))
        # a time far ahead is not ours, and would block the name until then
        known = sent.tzinfo is not None and sent <= now + PENDING_CREATE_LIFETIME
        return sent.astimezone(UTC) if known else None
    except (ValueError, OverflowError):
        return None


def _time_unknown(subject: str, run: FlowRun, tag: str) -> str:
    others = json.dumps({"tags": [one for one in run.tags if one != tag]})
    return (
        f"run {run.name} ({run.id}) has the tag {tag!r}, which does not say when its create for "
        f"{subject} was sent, so none is sent now: somebody has changed the tag. Look in the "
        "Console whether the workspace is there, not before "
        f"{PENDING_CREATE_LIFETIME.total_seconds() / 60:.0f} minutes after the run's last step. If "
        "it is, onboard it by its id. If it is not, take the tag away and Retry: prefect api PATCH "
        f"/flow_runs/{run.id} --data {shlex.quote(others)}"
    )


def _outcome_unknown(subject: str, sender: str, sent: datetime) -> str:
    return (
        f"{sender} sent a create for {subject} at {sent:%Y-%m-%d %H:%M:%S} UTC and got no clear "
        f"response, and no workspace with its tag is there so far; it may still appear. Nothing "
        f"else was sent. Retry after {sent + PENDING_CREATE_LIFETIME:%H:%M:%S} UTC: the run reads "
        "again before it goes on"
    )


class ReadBack(FrozenModel):
    """What the service shows after the attach."""

    workspace_id: str
    workspace_name: str
    external_key_id: str
    key_name: str | None
    attached: bool
    data_residency: dict[str, JsonValue] | None
    request_ids: tuple[str | None, str | None]


class ReadBackMismatchError(CmekError):
    """The service does not show what was attached."""


@uncached_task(name="Read back")
async def read_back(
    block: str,
    workspace_id: str,
    external_key_id: str,
    residency: Mapping[str, object] | None = None,
) -> ReadBack:
    """Read workspace and external key after the attach.

    Args:
        block: Name of the AnthropicAdmin block.
        workspace_id: The workspace with the key.
        external_key_id: The key that it must show.
        residency: The data residency that a new workspace must show; None for an older one.

    Raises:
        ReadBackMismatchError: The workspace does not show this key or this data residency, or
            the key is not shown as attached.
    """
    api = await admin_client(block)
    workspace = await api.workspaces.retrieve(workspace_id)
    key = await api.external_keys.retrieve(external_key_id)
    if workspace.external_key_id != external_key_id or not key.is_attached:
        raise ReadBackMismatchError(
            f"workspace {workspace_id} shows the key {workspace.external_key_id} and "
            f"{external_key_id} shows attachment {key.attachment.type}: check both in the "
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
