"""Approval request and approval response. A response approves one plan, by its digest."""

from __future__ import annotations

import re
from typing import Final, Literal

from pydantic import AwareDatetime, ConfigDict

from cmek.models import FrozenModel
from cmek.names import look_alike
from cmek.onboarding.plan import Plan

_SYNTAX: Final = re.compile(r"[\\^$.*+?()\[\]{}|/]")


class ApprovalRequest(FrozenModel):
    """Approval request `number` of one attempt: the plan that was shown, when, and its expiry."""

    run_id: str
    attempt: int
    number: int
    nonce: str
    """Random and unguessable: a signature over it can't be older than this request, nor belong to
    another one."""
    plan: Plan
    digest: str
    requested_at: AwareDatetime
    expires_at: AwareDatetime
    signatures: int = 0
    """How many approvers must sign; 0: a typed approval is enough."""
    reapproval_reasons: tuple[str, ...] = ()
    """Why this is not the first request of the run."""

    @property
    def key(self) -> str:
        """The key of Prefect's run input: a response reaches only this request of this attempt."""
        return f"attach-{self.attempt}-{self.number}"


class ApprovalResponse(FrozenModel):
    """What came back through the form. Every field is unverified until the gate has checked it."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["approve", "reject"]
    workspace_id: str | None = None
    workspace_name: str | None = None
    """Instead of the id, for a workspace that does not exist yet."""
    approver: str
    comment: str
    plan_digest: str
    acknowledge_warnings: bool = False
    signed_approvals: str = ""
    """Statements with their SSH signatures, as `cmek.signatures.statement` reads them."""


def same_identity(one: str, other: str) -> bool:
    """Whether two typed addresses look like those of one person.

    The part after `+` is ignored, since mail to it reaches the same mailbox. This compares
    unverified names and proves no identity.
    """
    return look_alike(_mailbox(one), _mailbox(other))


def _mailbox(address: str) -> str:
    local, _, domain = address.partition("@")
    return f"{local.partition('+')[0] or local}@{domain}"


def exactly(text: str) -> str:
    """A pattern, without anchors, that matches only this text."""
    return _SYNTAX.sub(r"\\\g<0>", text)
