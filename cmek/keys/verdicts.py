"""The results: a prerequisite's check with evidence and remedy, and the health of a key.

A health has its reasons, and what the next check compares with.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, Self

from pydantic import ConfigDict, model_validator

from cmek.models import FrozenModel

if TYPE_CHECKING:  # `cmek status` reads records and needs none of Google's libraries
    from cmek._http import Failed
    from cmek.gcp.resources import CryptoKey
    from cmek.keys.conditions import Condition

UNUSABLE: Final = frozenset({"DISABLED", "DESTROY_SCHEDULED", "DESTROYED"})
"""States of a version that encrypts and decrypts nothing."""
CheckStatus = Literal["pass", "warn", "fail", "unknown"]


class Check(FrozenModel):
    """One prerequisite's answer. `unknown` is never shown as `pass`."""

    model_config = ConfigDict(extra="forbid")

    id: str
    title: str
    status: CheckStatus
    evidence: str
    """What was read, and from where."""
    remedy: str | None = None
    """The command or console page that fixes it; always there on `fail`."""
    who_can_tell: str | None = None
    """Who could answer it; always there on `unknown`."""

    @model_validator(mode="after")
    def _a_verdict_helps(self) -> Self:
        if self.status == "fail" and not self.remedy:
            raise ValueError(f"check {self.id} fails without saying what fixes it")
        if self.status == "unknown" and not self.who_can_tell:
            raise ValueError(f"check {self.id} is unknown without saying who can tell")
        return self


class CheckReport(FrozenModel):
    """All checks of one run, in the order in which a person reads them."""

    model_config = ConfigDict(extra="forbid")

    checks: tuple[Check, ...]
    project_number: str | None = None
    """The key's project as a number; None when the project could not be read."""
    other_decrypters: tuple[str, ...] = ()
    """Everyone besides Anthropic who can decrypt with the key: `MEMBER (ROLE on RESOURCE)`."""
    unread_policies: tuple[str, ...] = ()
    """Resources whose IAM policy could not be read, so that the list above may lack someone."""

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

    def _with(self, status: CheckStatus) -> tuple[Check, ...]:
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

    def judge(self, condition: Condition, otherwise: str) -> Check:
        """Passed when the condition holds, a warning where it is doubtful, else failed.

        Args:
            condition: With evidence and remedy.
            otherwise: What to do where the condition has no remedy.
        """
        if condition.holds:
            return self.passed(condition.evidence)
        remedy = " && ".join(condition.remedy) or otherwise
        if condition.doubtful:
            return self.warned(condition.evidence, remedy)
        return self.failed(condition.evidence, remedy)

    def passed(self, evidence: str) -> Check:
        """It holds."""
        return self._check("pass", evidence)

    def warned(self, evidence: str, remedy: str | None = None) -> Check:
        """It holds well enough to go on, once a person has seen it."""
        return self._check("warn", evidence, remedy)

    def failed(self, evidence: str, remedy: str) -> Check:
        """It does not hold; nothing may be made."""
        return self._check("fail", evidence, remedy)

    def unknown(self, why: str | Failed, remedy: str | None = None) -> Check:
        """It could not be read; says who can."""
        if not isinstance(why, str):
            remedy = remedy or why.remedy
        return self._check("unknown", str(why), remedy, self.who_can_tell)

    def _check(
        self, status: CheckStatus, evidence: str, remedy: str | None = None, who: str | None = None
    ) -> Check:
        return Check(
            id=self.id,
            title=self.title,
            status=status,
            evidence=evidence,
            remedy=remedy,
            who_can_tell=who,
        )


Depth = Literal["quick", "full"]
"""`quick` leaves out old versions, and Anthropic's validation unless something has changed since
the last check; what was found there earlier stays."""


class Health(StrEnum):
    """How a key is. `unknown` is never shown as `healthy`."""

    HEALTHY = "healthy"
    AT_RISK = "at_risk"
    """It works today, and something threatens it or the data under it."""
    UNKNOWN = "unknown"
    """Not everything could be read, so nobody can say."""
    BROKEN = "broken"
    """The key, or a part of the data under it, can't be used now."""

    @property
    def rank(self) -> int:
        """0 for the best, 3 for the worst."""
        return list(Health).index(self)


class Severity(StrEnum):
    """How urgent a reason is, in Security Command Center's words."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the least urgent, 3 for the most."""
        return list(Severity).index(self)


class HealthReason(FrozenModel):
    """One thing that a rule found."""

    rule: str
    means: Health
    """What the key is because of it; `healthy` for a remark."""
    severity: Severity
    says: str
    subject: str = ""
    """What it is about, where a rule can find several things: a version, a member, a field."""
    benchmark: str | None = None
    """The CIS Google Cloud Foundations or Security Command Center check of the same thing."""
    since: datetime | None = None
    """From the resource where it tells, else the first check that found it."""
    final_at: datetime | None = None
    """When it can no longer be undone."""
    commands: tuple[str, ...] = ()
    """What to type, in this order."""
    who_can_tell: str | None = None
    """Who could answer what we could not read."""
    seen_at: datetime | None = None
    """When it was last seen, if the last check did not read that part."""

    @property
    def identity(self) -> tuple[str, str]:
        """The same for the same finding in two checks."""
        return self.rule, self.subject

    def time_left(self, now: datetime) -> timedelta | None:
        """Until it is final; never negative."""
        return max(self.final_at - now, timedelta(0)) if self.final_at else None


CLOCKS_DIFFER: Final = timedelta(minutes=5)
"""How far two workers' clocks may be apart. What another has dated further ahead than that was
dated by a clock that is wrong, and is not later than what is found now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRun:
    """One check: its flow run, its time, and whether it was scheduled as a recheck."""

    run_id: str
    now: datetime
    is_scheduled_recheck: bool = False
    """Whether this is the follow-up that was scheduled for the key."""


class UnreachableState(FrozenModel):
    """Since when a key could not be looked at, or failed Anthropic's validation without a cause."""

    external_key_id: str
    since: datetime
    rechecks: int = 0
    """Checks after the first one."""
    anthropic_failed: bool
    """Whether Anthropic's own validation failed at every check so far."""
    next_check: datetime | None = None
    """None once the day is over."""
    scheduled_by: str = ""
    """The flow run that scheduled the next check."""


class Baseline(FrozenModel):
    """What was recorded at onboarding, or by the first full check: later checks compare with it."""

    source: Literal["onboarding", "first look"]
    recorded_at: datetime
    purpose: str
    algorithm: str
    protection_level: str
    import_only: bool
    crypto_key_backend: str | None
    rotation_period: timedelta | None
    destroy_scheduled_duration: timedelta | None
    justifications_policy: tuple[str, ...] | None
    decrypters: tuple[str, ...] = ()
    """Who else could decrypt: an adopted key's users."""
    unusable_versions: tuple[str, ...] = ()
    """Version numbers that were not enabled; at onboarding no data of ours was under them."""

    @classmethod
    def of(
        cls,
        key: CryptoKey,
        *,
        source: Literal["onboarding", "first look"],
        now: datetime,
        decrypters: tuple[str, ...],
        unusable_versions: tuple[str, ...],
    ) -> Baseline:
        """Record a key as it is."""
        recorded = {name: getattr(key, name) for name in RECORDED_FIELDS}
        return cls(
            source=source,
            recorded_at=now,
            decrypters=decrypters,
            unusable_versions=unusable_versions,
            **recorded,
        )


RECORDED_FIELDS = (
    "purpose",
    "algorithm",
    "protection_level",
    "import_only",
    "crypto_key_backend",
    "rotation_period",
    "destroy_scheduled_duration",
    "justifications_policy",
)


class KeyRecord(FrozenModel):
    """The outcome of one check, kept for people and for the next check."""

    external_key_id: str
    key_name: str
    workspaces: tuple[str, ...]
    verdict: Health
    since: datetime
    """Since when it has this verdict."""
    checked_at: datetime
    depth: Depth
    run_id: str
    """The flow run that looked."""
    reasons: tuple[HealthReason, ...]
    announced: Health
    """The last verdict other than `unknown`: what people were told."""
    announced_before: Health
    """The same before this run, so that a run that is retried announces what it had found."""
    announced_at: datetime | None = None
    """The check that changed `announced`; None where no record says so."""
    announced_before_at: datetime | None = None
    """The same of `announced_before`: two runs that see one change announce it as one event."""
    fingerprint: str | None = None
    """Digest of what every check reads; None when not all of it could be read."""
    unreachable: UnreachableState | None = None
    baseline: Baseline | None = None

    @property
    def worst(self) -> HealthReason | None:
        """The reason to read first."""
        return self.reasons[0] if self.reasons else None

    @property
    def final_at(self) -> datetime | None:
        """The first moment at which something can no longer be undone."""
        return min((r.final_at for r in self.reasons if r.final_at), default=None)
