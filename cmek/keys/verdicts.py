"""The results: a prerequisite's check with evidence and remedy, and the health of a key.

The record of a key's health has its reasons, and what the next check compares with.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import AwareDatetime, ConfigDict, model_validator

from cmek.models import FrozenModel

if TYPE_CHECKING:  # `cmek status` reads records and needs none of Google's libraries
    from collections.abc import Iterable

    from cmek._http import Failed
    from cmek.gcp.resources import CryptoKey, KeyVersion
    from cmek.keys.conditions import Condition

UNUSABLE: Final = frozenset({"DISABLED", "DESTROY_SCHEDULED", "DESTROYED"})
"""States of a version that can neither encrypt nor decrypt."""
CheckStatus = Literal["pass", "warn", "fail", "unknown"]


class Check(FrozenModel):
    """The result of one prerequisite. `unknown` is never shown as `pass`."""

    model_config = ConfigDict(extra="forbid")

    id: str
    title: str
    status: CheckStatus
    evidence: str
    """What was read, and from where."""
    remedy: str | None = None
    """The command or console page that fixes it; required for `fail`."""
    who_can_tell: str | None = None
    """Who could answer it; required for `unknown`."""

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
    """The number of the key's project; None when the project could not be read."""
    other_decrypters: tuple[str, ...] = ()
    """All members besides Anthropic who can decrypt with the key: `MEMBER (ROLE on RESOURCE)`."""
    unread_policies: tuple[str, ...] = ()
    """Resources with an unreadable IAM policy, so that the list above may be incomplete."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that stop the onboarding."""
        return self._with("fail")

    @property
    def warnings(self) -> tuple[Check, ...]:
        """The checks that an approver acknowledges."""
        return self._with("warn")

    @property
    def unknown(self) -> tuple[Check, ...]:
        """The checks that could not be answered with these credentials."""
        return self._with("unknown")

    def _with(self, status: CheckStatus) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == status)


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """The constant part of a check: name, requests, and who can answer when we can't."""

    id: str
    title: str
    requests: tuple[str, ...]
    """The API methods whose responses it judges, for the documentation."""
    who_can_tell: str
    why: str
    """What goes wrong when it does not hold."""

    def judge(self, condition: Condition, otherwise: str) -> Check:
        """Pass when the condition holds, a warning when it is doubtful, else a failure.

        Args:
            condition: With evidence and remedy.
            otherwise: The remedy, if the condition has none.
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
        """The onboarding may go on, once a person has acknowledged it."""
        return self._check("warn", evidence, remedy)

    def failed(self, evidence: str, remedy: str) -> Check:
        """It does not hold; nothing may be created."""
        return self._check("fail", evidence, remedy)

    def unknown(self, why: str | Failed, remedy: str | None = None) -> Check:
        """It could not be read; the check says who can tell."""
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
"""`quick` does not read old versions, and validates only if something has changed since the last
check; earlier findings about these stay."""


class Health(StrEnum):
    """The verdict on a key, from best to worst. `unknown` is never shown as `healthy`."""

    HEALTHY = "healthy"
    AT_RISK = "at_risk"
    """It works today, but something threatens it or the data under it."""
    UNKNOWN = "unknown"
    """Not everything could be read, so there is no verdict."""
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
    """One finding of a rule."""

    rule: str
    means: Health
    """The verdict that it gives the key; `healthy` for a remark."""
    severity: Severity
    says: str
    subject: str = ""
    """What it is about, if the rule can find several: a version, a member, a field."""
    benchmark: str | None = None
    """The same check in CIS Google Cloud Foundations or Security Command Center."""
    since: AwareDatetime | None = None
    """From the resource, if it says so; else the time of the first check that found it."""
    final_at: AwareDatetime | None = None
    """From when on it can't be undone."""
    commands: tuple[str, ...] = ()
    """The commands that fix it, in this order."""
    who_can_tell: str | None = None
    """Who can answer what could not be read."""
    seen_at: AwareDatetime | None = None
    """When it was last seen, if the last check did not read that part."""

    @property
    def identity(self) -> tuple[str, str]:
        """Identifies a finding across checks."""
        return self.rule, self.subject

    @property
    def is_urgent(self) -> bool:
        """Whether people are notified of it even if the key has its verdict already."""
        certain = self.means in (Health.BROKEN, Health.AT_RISK)
        return certain and (self.severity is Severity.CRITICAL or self.final_at is not None)

    def time_left(self, now: datetime) -> timedelta | None:
        """The time until it can't be undone; never negative."""
        return max(self.final_at - now, timedelta(0)) if self.final_at else None


class AnnouncedReason(FrozenModel):
    """An urgent reason that people were notified of."""

    rule: str
    subject: str
    means: Health
    """The worst verdict for which it was announced."""
    gone_since: AwareDatetime | None = None
    """Since when it is not found any more; None while it is."""

    @classmethod
    def of(cls, reason: HealthReason) -> AnnouncedReason:
        """The reason as it is announced now."""
        return cls(rule=reason.rule, subject=reason.subject, means=reason.means)

    @property
    def identity(self) -> tuple[str, str]:
        """As `HealthReason.identity`."""
        return self.rule, self.subject


CLOCKS_DIFFER: Final = timedelta(minutes=5)
"""How far the clocks of two workers may differ. A time that is further ahead comes from a wrong
clock, and is not taken as later than now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRun:
    """One check: its flow run, its time, and what it follows up."""

    run_id: str
    now: datetime
    recheck_of: UnreachableState | None = None
    """In a follow-up: the state of the key for which the follow-up was scheduled."""
    schedules_follow_up: bool = True
    """Whether it can schedule a follow-up; a live check and a run without a deployment can't."""


class UnreachableState(FrozenModel):
    """Since when a key could not be read, or failed Anthropic's validation for no visible cause."""

    external_key_id: str
    since: AwareDatetime
    rechecks: int = 0
    """Number of checks after the first one."""
    anthropic_failed: bool
    """Whether Anthropic's validation has failed, and has not succeeded since."""
    anthropic_failing_since: AwareDatetime | None = None
    """The first failed validation since the last success; None in the state of an older release."""
    next_check: AwareDatetime | None = None
    """When the follow-up checks again; None if none is scheduled: after a day there is no more."""
    scheduled_by: str = ""
    """The flow run that scheduled the next check."""

    @property
    def failing_since(self) -> datetime | None:
        """Since when no validation has succeeded; None if none has failed since."""
        if self.anthropic_failing_since is None and self.anthropic_failed:
            return self.since  # an older release: it had failed at every check
        return self.anthropic_failing_since


class Baseline(FrozenModel):
    """The key's state at onboarding, or at the first full check; later checks compare with it."""

    source: Literal["onboarding", "first look"]
    recorded_at: AwareDatetime
    purpose: str
    algorithm: str
    protection_level: str
    import_only: bool
    crypto_key_backend: str | None
    rotation_period: timedelta | None
    destroy_scheduled_duration: timedelta | None
    justifications_policy: tuple[str, ...] | None
    decrypters: tuple[str, ...] = ()
    """Members who could decrypt before the onboarding: the users of an adopted key."""
    approved_decrypters: tuple[str, ...] | None = None
    """As in the approved plan: who could decrypt by a grant on the key, its ring, its project or
    above, as `MEMBER (ROLE on RESOURCE)`. None: not recorded.
    """
    unusable_versions: tuple[str, ...] = ()
    """Numbers of versions that were unusable; at onboarding they had no data of Anthropic's."""

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
        """Record the key's present state."""
        return cls(
            source=source,
            recorded_at=now,
            decrypters=decrypters,
            unusable_versions=unusable_versions,
            **_recorded(key),
        )

    def without_usable(self, versions: Iterable[KeyVersion]) -> Baseline:
        """Without the versions that are usable now: from now on they may have data."""
        usable = {version.id for version in versions if version.state not in UNUSABLE}
        kept = tuple(one for one in self.unusable_versions if one not in usable)
        return self.model_copy(update={"unusable_versions": kept})

    def renewed(self, key: CryptoKey, now: datetime) -> Baseline:
        """With the key's present settings; users and versions of the onboarding stay recorded."""
        return self.model_copy(update={"recorded_at": now, **_recorded(key)})


def _recorded(key: CryptoKey) -> dict[str, Any]:
    return {name: getattr(key, name) for name in RECORDED_FIELDS}


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
    """The result of one check, for people and for the next check."""

    external_key_id: str
    key_name: str
    workspaces: tuple[str, ...]
    verdict: Health
    since: AwareDatetime
    """Since when it has this verdict."""
    checked_at: AwareDatetime
    depth: Depth
    run_id: str
    """The flow run that checked the key."""
    reasons: tuple[HealthReason, ...]
    announced: Health
    """The last verdict other than `unknown`: the one that people were notified of."""
    announced_before: Health
    """`announced` before this run: a retry of the run needs it to notify of the same change."""
    announced_at: AwareDatetime | None = None
    """The time of the check that last announced anything; None when no record has it."""
    announced_before_at: AwareDatetime | None = None
    """The same for `announced_before`: two runs that find one change send one event."""
    announced_reasons: tuple[AnnouncedReason, ...] | None = None
    """The urgent reasons that people were notified of; None in a record of an older release."""
    announced_reasons_before: tuple[AnnouncedReason, ...] | None = None
    """The same before this run."""
    fingerprint: str | None = None
    """Digest of what every check reads; None when a part could not be read."""
    unreachable: UnreachableState | None = None
    baseline: Baseline | None = None

    @property
    def known_reasons(self) -> tuple[AnnouncedReason, ...]:
        """The urgent reasons that people know; a record of an older release counts as announced."""
        if self.announced_reasons is None:
            return tuple(AnnouncedReason.of(one) for one in self.reasons if one.is_urgent)
        return self.announced_reasons

    @property
    def worst(self) -> HealthReason | None:
        """The reason to read first."""
        return self.reasons[0] if self.reasons else None

    @property
    def final_at(self) -> datetime | None:
        """The earliest time from which something can't be undone."""
        return min((r.final_at for r in self.reasons if r.final_at), default=None)
