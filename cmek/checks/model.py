"""What a check says: pass, warn, fail or unknown, with evidence and the way to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import ConfigDict, model_validator

from cmek.checks.outcome import Refused
from cmek.models import FrozenModel

Status = Literal["pass", "warn", "fail", "unknown"]


class Check(FrozenModel):
    """One prerequisite's answer. `unknown` is never shown as `pass`."""

    model_config = ConfigDict(extra="forbid")

    id: str
    title: str
    status: Status
    evidence: str
    """What was read, and from where."""
    remedy: str | None = None
    """The command or console page that mends it; always there on `fail`."""
    who_can_tell: str | None = None
    """Who could answer it; always there on `unknown`."""

    @model_validator(mode="after")
    def _a_verdict_helps(self) -> Self:
        if self.status == "fail" and not self.remedy:
            raise ValueError(f"check {self.id} fails without saying what mends it")
        if self.status == "unknown" and not self.who_can_tell:
            raise ValueError(f"check {self.id} is unknown without saying who can tell")
        return self


class CheckReport(FrozenModel):
    """All checks of one run, in the order in which a person reads them."""

    model_config = ConfigDict(extra="forbid")

    checks: tuple[Check, ...]
    project_number: str | None = None
    """The key's project as a number; None when the project could not be read."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that forbid going on."""
        return self._with("fail")

    @property
    def warnings(self) -> tuple[Check, ...]:
        """The checks that an approver acknowledges."""
        return self._with("warn")

    @property
    def unknown(self) -> tuple[Check, ...]:
        """The checks that nobody could answer with these credentials."""
        return self._with("unknown")

    def _with(self, status: Status) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == status)


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """The unchanging part of a check: name, requests, and who can answer when we cannot."""

    id: str
    title: str
    requests: tuple[str, ...]
    """The API methods whose answers it judges, for the documentation."""
    who_can_tell: str
    why: str
    """What goes wrong when it does not hold."""

    def passed(self, evidence: str) -> Check:
        """It holds."""
        return self._check("pass", evidence)

    def warned(self, evidence: str, remedy: str | None = None) -> Check:
        """It holds well enough to go on, once a person has seen it."""
        return self._check("warn", evidence, remedy)

    def failed(self, evidence: str, remedy: str) -> Check:
        """It does not hold; nothing may be made."""
        return self._check("fail", evidence, remedy)

    def unknown(self, why: str | Refused, remedy: str | None = None) -> Check:
        """It could not be read; says who can."""
        if isinstance(why, Refused):
            remedy = remedy or why.remedy
        return self._check("unknown", str(why), remedy, self.who_can_tell)

    def _check(
        self, status: Status, evidence: str, remedy: str | None = None, who: str | None = None
    ) -> Check:
        return Check(
            id=self.id,
            title=self.title,
            status=status,
            evidence=evidence,
            remedy=remedy,
            who_can_tell=who,
        )
