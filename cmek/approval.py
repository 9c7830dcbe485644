"""An ask and its answer. Only an answer bound to one plan digest is an approval."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cmek.plan import Plan


class Ask(BaseModel):
    """Ask number `number` of one attempt: what was shown, when, and until when it counts."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    attempt: int
    number: int
    nonce: str
    """Unguessable, so that a signature over it can't be older than the ask or be for another."""
    plan: Plan
    digest: str
    asked_at: datetime
    expires_at: datetime
    signatures: int = 0
    """How many approvers must sign; 0 means that typing is enough."""
    because: tuple[str, ...] = ()
    """Why this is not the first ask."""

    @property
    def key(self) -> str:
        """The key under which the run suspends; another attempt never meets this answer."""
        return f"attach-{self.attempt}-{self.number}"


class Answer(BaseModel):
    """What came back through the form; every field is a claim until the gate has looked at it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: Literal["approve", "reject"]
    workspace_id: str
    approver: str
    comment: str
    plan_digest: str
    acknowledge_warnings: bool = False
    signed_approvals: str = ""
    """Statements with their SSH signatures, as `cmek.signatures.statement` reads them."""


def same_person(one: str, other: str) -> bool:
    """Whether two typed names mean one person, looking through case, width and invisible marks.

    A comparison of claims, not a proof of identity.
    """
    return _folded(one) == _folded(other)


def _folded(name: str) -> str:
    compatible = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in compatible if unicodedata.category(c) not in {"Cf", "Zs", "Cc"})
