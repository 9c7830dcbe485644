"""What is known about a failed Google call, whatever carried it."""

from __future__ import annotations

from pydantic import Field

from cmek.models import FrozenModel


class Violation(FrozenModel):
    """One line of a precondition or quota failure: which rule, about what."""

    type: str = ""
    subject: str = ""
    description: str = ""


class GoogleProblem(FrozenModel):
    """A failed Google call, classified."""

    status: str
    """Canonical name, such as `PERMISSION_DENIED`."""
    reason: str | None = None
    """Google's own (`SERVICE_DISABLED`, `KEY_DISABLED`, `constraints/…`), or one of ours:
    `MISROUTED_LOCATION`, `CONCURRENT_POLICY_CHANGE`, `CONNECTION`, `CREDENTIALS`, `NOT_GOOGLE`.
    """
    permission: str | None = None
    resource: str | None = None
    violations: tuple[Violation, ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)
    message: str = ""
    request_id: str | None = None
    retry_after: float | None = None
    """Seconds that the server asked to wait."""
    transient: bool = False
    """Whether the same call may well succeed if sent again soon."""
    advice: str = ""
    """What a person can do."""
    call: str = ""
    """What was called, when the caller of `classify` said so."""


class GoogleApiError(Exception):
    """A Google call failed; `problem` says how. Holds no request and can be pickled."""

    def __init__(self, problem: GoogleProblem) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        problem = self.problem
        what = " ".join(part for part in (problem.call, problem.resource) if part)
        reason = f" {problem.reason}" if problem.reason else ""
        offenders = "; ".join(v.description for v in problem.violations if v.description)
        parts = (
            f"{what}: " if what else "",
            f"{problem.status}{reason}: {problem.message}",
            f" [{offenders}]" if offenders and offenders not in problem.message else "",
            f" {problem.advice}" if problem.advice else "",
        )
        return "".join(parts)
