"""Guide step 7 as the gateway does it: verify, read, validate, write the intent, send once, settle.

The gateway's own calls of one attach are `external_keys.retrieve`, `workspaces.retrieve` (for a
create all pages of `workspaces.list`), `external_keys.validate`, and the attach itself. A request
whose answer was lost is settled by a read, never by a second request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cmek.anthropic.client import PENDING_CREATE_LIFETIME, AdminApi
from cmek.anthropic.errors import AdminApiError
from cmek.anthropic.models import Workspace
from cmek.errors import CmekError
from cmek.onboarding.gate import FRESHNESS_SECONDS, STEADY
from cmek.signatures.signers import DIRECTORY, Signers
from cmek.signatures.statement import UnreadableApprovalError, parse_signed
from cmek.signatures.verification import BadSignatureError, Verified, verify
from cmek.tags import CREATED_BY_TAG
from gateway.journal import Intent, IntentOutcome, Journal, JournalEntry, JournalError
from gateway.rules import Attach, Create, PolicyError, approval_problems, live_problems, present

_log = logging.getLogger("cmek.gateway")


class KeyUnusableError(CmekError):
    """Anthropic could not use the key, by the gateway's own validation; nothing was sent."""


@dataclass(slots=True)
class SteadyClock:
    """A wall clock that never runs back: setting it back must not revive an expired approval."""

    floor: datetime
    """The latest time in the journal."""
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    steady: Callable[[], float] = lambda: time.clock_gettime(STEADY)
    _started: tuple[datetime, float] = field(init=False)

    def __post_init__(self) -> None:
        self._started = (max(self.wall(), self.floor), self.steady())

    def now(self) -> datetime:
        """The later of the wall clock and the start time plus the monotonic time since then."""
        at, then = self._started
        return max(self.wall(), at + timedelta(seconds=self.steady() - then))

    def behind(self) -> timedelta:
        """How far the wall clock is behind: it was set back, or was ahead in an earlier process."""
        return self.now() - self.wall()


class Attacher:
    """Attaches and creates, one at a time for each workspace."""

    def __init__(
        self,
        api: AdminApi,
        journal: Journal,
        find: Callable[[], Signers | None],
        *,
        requester_excluded: bool = True,
        clock: SteadyClock | None = None,
    ) -> None:
        """Make one for a running event loop.

        Args:
            api: The Admin API with the gateway's own credential.
            journal: The open journal.
            find: Reads the signers, at each attach.
            requester_excluded: Whether the requester's own approval is ignored.
            clock: For tests.
        """
        self._api = api
        self._journal = journal
        self._find = find
        self._requester_excluded = requester_excluded
        self.clock = clock or SteadyClock(journal.latest_time())
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def attach(self, target: Attach | Create, signed_approvals: str) -> Workspace:
        """Attach the key, or create the workspace with it, if these approvals permit it.

        Returns:
            The workspace with its key; if it had the key before, nothing was sent.

        Raises:
            PolicyError: The approvals or the live state do not permit it. Nothing was sent.
            NonceUsedError: The approval was used before. Nothing was sent.
            KeyUnusableError: Anthropic can't use the key. Nothing was sent.
            SignersRefusedError: The signers can't be used. Nothing was sent.
            JournalError: The intent is not on the disk. Nothing was sent.
            AdminApiError: Of a read; or of the attach itself, whose `ambiguous` says whether it
                may have taken effect.
        """
        # of two requests for one workspace, the second one reads after the first has ended
        async with self._turns[_subject(target)]:
            verified = await self._verified(target, signed_approvals)
            signed = verified[0].approval.statement
            key = await self._api.external_keys.retrieve(target.external_key_id)
            workspaces = await self._read(target)
            existing = present(target, workspaces)
            if existing is not None:
                # the same read shows the outcome of intents that are still open
                for entry in self._journal.unsettled():
                    if entry.workspace == _subject(target):
                        self._settle_by(entry, workspaces)
                return existing
            if problems := live_problems(target, signed, key, workspaces):
                raise PolicyError("; ".join(problems))
            self._ensure_no_pending_create(target)
            started = time.clock_gettime(STEADY)
            validation = await self._api.external_keys.validate(target.external_key_id)
            if not validation.succeeded:
                raise KeyUnusableError(
                    f"validation of {signed.key_name} failed: {validation.error}"
                )
            intent = _intent(target, verified, signed_approvals)
            # on the disk before the request: after a crash, the next start settles it by a read
            number = self._journal.begin(intent, now=self.clock.now())

            def ensure_in_time() -> None:
                if problem := self._too_late(signed.expires_at, started):
                    raise PolicyError(problem)

            return await self._send(target, number, ensure_in_time)

    async def settle_unsettled(self) -> None:
        """Read the outcome of the intents that have no certain one.

        Raises:
            AdminApiError: It could not be read; they stay as they are.
            JournalError: It could not be written.
        """
        for entry in self._journal.unsettled():
            self._settle_by(entry, await self._read(_target(entry)))

    def _settle_by(self, entry: JournalEntry, workspaces: Sequence[Workspace]) -> None:
        """Write the outcome that a read shows for one intent; without an effect it is UNKNOWN."""
        existing = present(_target(entry), workspaces)
        if existing is not None:
            self._settle(entry.number, IntentOutcome.ATTACHED, existing.id, existing.request_id)
        elif entry.outcome is None:
            self._settle(entry.number, IntentOutcome.UNKNOWN)

    async def _verified(
        self, target: Attach | Create, signed_approvals: str
    ) -> tuple[Verified, ...]:
        signers = self._find()
        if signers is None:
            raise PolicyError(
                f"no approver is enrolled: the gateway has no {DIRECTORY / 'allowed_signers'}"
            )
        now = self.clock.now()
        try:
            given = parse_signed(signed_approvals)
            verified = tuple([await verify(one, signers, at=now) for one in given])
        except (UnreadableApprovalError, BadSignatureError) as error:
            raise PolicyError(str(error)) from error
        problems = approval_problems(
            target,
            verified,
            minimum=signers.minimum,
            requester_excluded=self._requester_excluded,
            now=now,
        )
        if problems:
            raise PolicyError("; ".join(problems))
        return verified

    async def _read(self, target: Attach | Create) -> Sequence[Workspace]:
        if isinstance(target, Attach):
            return [await self._api.workspaces.retrieve(target.workspace_id)]
        return await self._api.workspaces.everything()

    def _too_late(self, expires_at: datetime, validated: float) -> str | None:
        """Why it may not be sent any more: the reads and the journal may have taken too long."""
        if time.clock_gettime(STEADY) - validated > FRESHNESS_SECONDS:
            return f"the validation is older than {FRESHNESS_SECONDS:.0f} s"
        if self.clock.now() > expires_at:
            return f"the approval expired at {expires_at}"
        return None

    def _ensure_no_pending_create(self, target: Attach | Create) -> None:
        if isinstance(target, Attach):  # can't take effect twice: its field is written once
            return
        since = self.clock.now() - PENDING_CREATE_LIFETIME
        for entry in self._journal.unsettled():
            if entry.workspace == _subject(target) and entry.intended_at > since:
                again = entry.intended_at + PENDING_CREATE_LIFETIME
                raise PolicyError(
                    f"a create of {target.name!r} was sent at {entry.intended_at} and got no clear "
                    f"response; it may still appear. Try again after {again}"
                )

    async def _send(
        self, target: Attach | Create, number: int, last_check: Callable[[], None]
    ) -> Workspace:
        try:
            if isinstance(target, Attach):
                workspace = await self._api.workspaces.update(
                    target.workspace_id,
                    external_key_id=target.external_key_id,
                    last_check=last_check,
                )
            else:
                workspace = await self._api.workspaces.create(
                    target.name,
                    target.external_key_id,
                    tags={CREATED_BY_TAG: target.run_id},
                    data_residency=target.data_residency,
                    last_check=last_check,
                )
        except PolicyError:
            self._settle(number, IntentOutcome.REFUSED)
            raise
        except AdminApiError as error:
            if not error.ambiguous:  # certainly without effect, so the approval can be used again
                self._settle(number, IntentOutcome.REFUSED, None, error.request_id)
                raise
            existing = await self._read_after_failure(target, number)
            if existing is None:
                raise
            workspace = existing
        self._settle(number, IntentOutcome.ATTACHED, workspace.id, workspace.request_id)
        return workspace

    async def _read_after_failure(self, target: Attach | Create, number: int) -> Workspace | None:
        """Only a read shows whether a request without a clear answer took effect."""
        try:
            existing = present(target, await self._read(target))
        except AdminApiError:
            existing = None
        if existing is None:
            self._settle(number, IntentOutcome.UNKNOWN)
        return existing

    def _settle(
        self,
        number: int,
        outcome: IntentOutcome,
        workspace_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        try:
            self._journal.settle(
                number,
                outcome,
                now=self.clock.now(),
                workspace_id=workspace_id,
                request_id=request_id,
            )
        except JournalError:
            # Not raised, since the caller must get Anthropic's answer. The intent is on the disk:
            # without an outcome its approval is used up, and the next start settles it by a read.
            _log.exception("outcome %s of intent %d is not in the journal", outcome, number)


def _subject(target: Attach | Create) -> str:
    return target.workspace_id if isinstance(target, Attach) else f"new:{target.name}"


def _intent(target: Attach | Create, verified: tuple[Verified, ...], approvals: str) -> Intent:
    signed = verified[0].approval.statement
    return Intent(
        nonce=signed.nonce,
        run_id=signed.run_id,
        workspace=_subject(target),
        external_key_id=target.external_key_id,
        key_name=signed.key_name,
        plan_digest=signed.plan_digest,
        approvers=tuple(str(one) for one in verified),
        signed_approvals=approvals,
    )


def _target(entry: JournalEntry) -> Attach | Create:
    if entry.workspace.startswith("new:"):
        name = entry.workspace.removeprefix("new:")
        return Create(name, entry.external_key_id, entry.run_id, None)
    return Attach(entry.workspace, entry.external_key_id)
