"""The forms of a rule: a health rule finds reasons in a snapshot, a cause rule judges a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import ConfigDict

from cmek._http import Ok, Result, ok_value
from cmek.anthropic.models import ExternalKey
from cmek.gcp.resources import CryptoKey
from cmek.keys.conditions import Condition
from cmek.keys.snapshot import Findings, KeySnapshot
from cmek.keys.verdicts import Health, HealthReason, Severity
from cmek.models import FrozenModel
from cmek.onboarding.request import OnboardingRequest

Part = Literal["name", "key", "versions", "policy"]
"""The part of a snapshot that a rule needs; the registered name is always there."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the function of a rule found; the rule adds its name, severity and benchmark."""

    says: str
    commands: tuple[str, ...] = ()
    subject: str = ""
    since: datetime | None = None
    final_at: datetime | None = None

    @classmethod
    def of(
        cls, condition: Condition, *, subject: str | None = None, otherwise: str = ""
    ) -> Iterator[Finding]:
        """The finding for a condition that does not hold; nothing when it holds.

        Args:
            condition: With evidence and remedy.
            subject: What the finding is about; None: the condition's own subject.
            otherwise: Added to the evidence if the condition has no remedy.
        """
        if not condition.holds:
            yield cls(
                condition.evidence + ("" if condition.remedy else otherwise),
                condition.remedy,
                condition.subject if subject is None else subject,
                condition.since,
                condition.final_at,
            )


@dataclass(frozen=True, slots=True)
class HealthRule:
    """One health rule; `find` is called only if its part was read."""

    id: str
    means: Health
    severity: Severity
    part: Part
    find: Callable[[KeySnapshot], Iterator[Finding]]
    benchmark: str | None = None
    caused_by: tuple[str, ...] = ()
    """Cloud KMS methods that can cause it, with their names in Cloud Audit Logs."""

    def judge(self, snapshot: KeySnapshot) -> Iterator[HealthReason]:
        """The reasons that this rule gives."""
        for finding in self.find(snapshot):
            yield HealthReason(
                rule=self.id,
                means=self.means,
                severity=self.severity,
                benchmark=self.benchmark,
                says=finding.says,
                subject=finding.subject,
                commands=finding.commands,
                since=finding.since,
                final_at=finding.final_at,
            )


CauseVerdict = Literal["proved", "excluded", "open"]


class Cause(FrozenModel):
    """One known cause of a failed validation."""

    model_config = ConfigDict(extra="forbid")

    id: str
    title: str
    verdict: CauseVerdict
    """`open`: neither proved nor excluded by what we may read."""
    why: str
    command: str
    """What fixes it; for an open cause also what would prove or exclude it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisFacts:
    """Everything that we read after a failure. Anthropic's free text is not used."""

    request: OnboardingRequest
    findings: Findings
    external_key_id: str | None
    external_key: Result[ExternalKey] | None
    """None when nothing is registered yet."""
    granted_at: datetime | None
    """When the newest grant was written; None when not known."""
    now: datetime
    error_code: str | None
    """`error.details.error_code` of a refused attach."""
    request_id: str | None
    """Of the failed validation or attach, for Anthropic's support."""

    @property
    def key(self) -> CryptoKey | None:
        """The crypto key, if it exists and could be read."""
        return ok_value(self.findings.kms.key)

    @property
    def key_is_gone(self) -> bool:
        """Whether Cloud KMS says that there is no such key; a refused read does not say that."""
        read = self.findings.kms.key
        return isinstance(read, Ok) and read.value is None

    @property
    def organization_id(self) -> UUID | None:
        """The organization whose label the key needs."""
        organization = ok_value(self.findings.anthropic.organization)
        return organization.id if organization else self.request.expected_organization


@dataclass(frozen=True, slots=True)
class KnownCause:
    """The constant part of a cause."""

    id: str
    title: str
    reads: str
    """What proves or excludes it, for the documentation."""

    def proved(self, why: str, command: str) -> Cause:
        """The cause holds."""
        return self._cause("proved", why, command)

    def excluded(self, why: str) -> Cause:
        """The cause does not hold."""
        return self._cause("excluded", why, "none needed")

    def open(self, why: str, command: str) -> Cause:
        """Our reads neither prove nor exclude it."""
        return self._cause("open", why, command)

    def judge(self, condition: Condition, otherwise: str = "") -> Cause:
        """Excluded when the condition holds, open when it is doubtful, else proved.

        Args:
            condition: With evidence and remedy.
            otherwise: What to do if the condition has no remedy.
        """
        if condition.holds:
            return self.excluded(condition.evidence)
        verdict: CauseVerdict = "open" if condition.doubtful else "proved"
        return self._cause(verdict, condition.evidence, " && ".join(condition.remedy) or otherwise)

    def _cause(self, verdict: CauseVerdict, why: str, command: str) -> Cause:
        return Cause(id=self.id, title=self.title, verdict=verdict, why=why, command=command)


CauseRule = Callable[[DiagnosisFacts], Cause]
