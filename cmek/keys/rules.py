"""The shapes of rules: a health rule finds reasons in a snapshot, a cause rule judges a failure."""

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
"""What a rule needs to have been read; the registered name always is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule's function found; the rule itself adds its name, severity and benchmark."""

    says: str
    commands: tuple[str, ...] = ()
    subject: str = ""
    since: datetime | None = None
    final_at: datetime | None = None

    @classmethod
    def of(
        cls, condition: Condition, *, subject: str | None = None, otherwise: str = ""
    ) -> Iterator[Finding]:
        """The finding of a condition that does not hold; nothing where it holds.

        Args:
            condition: With evidence and remedy.
            subject: What it is about, where the condition's own subject is not meant.
            otherwise: Added to the evidence where the condition has no remedy.
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
    """One health rule; `find` is called only when its part was read."""

    id: str
    means: Health
    severity: Severity
    part: Part
    find: Callable[[KeySnapshot], Iterator[Finding]]
    benchmark: str | None = None
    caused_by: tuple[str, ...] = ()
    """Cloud KMS methods that can bring it about, as Cloud Audit Logs name them."""

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
    """What fixes it, or for an open cause also what would tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisFacts:
    """All that our own reads say after a failure. Anthropic's free text is no part of it."""

    request: OnboardingRequest
    findings: Findings
    external_key_id: str | None
    external_key: Result[ExternalKey] | None
    """None when nothing was registered yet."""
    granted_at: datetime | None
    """When the newest grant was written, as far as we know."""
    now: datetime
    error_code: str | None
    """`error.details.error_code` of a refused attach."""
    request_id: str | None
    """Of the failed validation or attach, for Anthropic's support."""

    @property
    def key(self) -> CryptoKey | None:
        """The crypto key, if there is one and we may read it."""
        return ok_value(self.findings.kms.key)

    @property
    def key_is_gone(self) -> bool:
        """Cloud KMS says that there is no such key."""
        read = self.findings.kms.key
        return isinstance(read, Ok) and read.value is None

    @property
    def organization_id(self) -> UUID | None:
        """The organization whose label the key needs."""
        organization = ok_value(self.findings.anthropic.organization)
        return organization.id if organization else self.request.expected_organization


@dataclass(frozen=True, slots=True)
class KnownCause:
    """The unchanging part of a cause."""

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
        """What we may read neither proves nor excludes it."""
        return self._cause("open", why, command)

    def judge(self, condition: Condition, otherwise: str = "") -> Cause:
        """Excluded by a condition that holds, open where it is doubtful, else proved.

        Args:
            condition: With evidence and remedy.
            otherwise: What to do where the condition has no remedy.
        """
        if condition.holds:
            return self.excluded(condition.evidence)
        verdict: CauseVerdict = "open" if condition.doubtful else "proved"
        return self._cause(verdict, condition.evidence, " && ".join(condition.remedy) or otherwise)

    def _cause(self, verdict: CauseVerdict, why: str, command: str) -> Cause:
        return Cause(id=self.id, title=self.title, verdict=verdict, why=why, command=command)


CauseRule = Callable[[DiagnosisFacts], Cause]
