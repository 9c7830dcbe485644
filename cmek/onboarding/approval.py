"""Approval request and response. Only a response bound to one plan digest is an approval."""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import AwareDatetime, ConfigDict

from cmek.models import FrozenModel
from cmek.names import look_alike
from cmek.onboarding.plan import Plan

_SYNTAX: Final = re.compile(r"[\\^$.*+?()\[\]{}|/]")


class ApprovalRequest(FrozenModel):
    """Request `number` of one attempt: what was shown, when, and until when it counts."""

    run_id: str
    attempt: int
    number: int
    nonce: str
    """Unguessable: a signature over it can be neither older than the request nor for another."""
    plan: Plan
    digest: str
    requested_at: AwareDatetime
    expires_at: AwareDatetime
    signatures: int = 0
    """How many approvers must sign; 0 means that typing is enough."""
    reapproval_reasons: tuple[str, ...] = ()
    """Why this is not the first request of the run."""

    @property
    def key(self) -> str:
        """The key under which the run suspends; another attempt never gets this response."""
        return f"attach-{self.attempt}-{self.number}"


class ApprovalResponse(FrozenModel):
    """What came back through the form; every field is unverified until the gate has checked it."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["approve", "reject"]
    workspace_id: str | None = None
    workspace_name: str | None = None
    """Typed instead of the id, for a workspace that does not exist yet."""
    approver: str
    comment: str
    plan_digest: str
    acknowledge_warnings: bool = False
    signed_approvals: str = ""
    """Statements with their SSH signatures, as `cmek.signatures.statement` reads them."""


def same_identity(one: str, other: str) -> bool:
    """Whether two typed addresses mean one person, as far as the eye tells them apart.

    What stands behind `+` chooses a folder of one mailbox. A comparison of unverified names, not a
    proof of identity.
    """
    return look_alike(_mailbox(one), _mailbox(other))


def _mailbox(address: str) -> str:
    local, _, domain = address.partition("@")
    return f"{local.partition('+')[0] or local}@{domain}"


def exactly(text: str) -> str:
    """The pattern, without anchors, that only this text fits."""
    return _SYNTAX.sub(r"\\\g<0>", text)
