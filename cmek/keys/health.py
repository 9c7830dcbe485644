"""The health of an onboarded key: the reasons, the verdict, and when people are notified.

`broken`: the key, or a part of the data under it, is unusable now. `at_risk`: that may happen, or
others can use the key.

A key that can't be read is `unknown` and is checked again soon. It is broken once Anthropic's own
validation has failed for a day without a success. If only our reads are refused, it stays unknown.
Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Final

from cmek._http import Failed, Ok, ok_value
from cmek.errors import LOST
from cmek.gcp.resources import KeyVersion
from cmek.keys.announcements import announced_reasons, newly_announced
from cmek.keys.health_rules import (
    GRANT_IN_ANOTHER_FORM,
    GRANT_MISSING,
    HEALTH_RULES,
    PART_OF,
)
from cmek.keys.rules import HealthRule, Part
from cmek.keys.rules_iam import grant_may_be_on_project, may_be_on_unread_project
from cmek.keys.snapshot import KeySnapshot
from cmek.keys.unreachable import LONGEST, has_failed_for_a_day, record_failed_check
from cmek.keys.verdicts import (
    UNUSABLE,
    Baseline,
    CheckRun,
    Health,
    HealthReason,
    KeyRecord,
    Severity,
    UnreachableState,
)

VALIDATION_FAILED = "validation-failed"
VALIDATION_UNEXPLAINED = "validation-unexplained"
VALIDATION_UNANSWERED = "validation-unanswered"
NO_CAUSE = ". Our reads show no cause"
UNREAD = "unread"
UNFINISHED = "unfinished"
MAY_STOP_ANTHROPIC = frozenset(
    {"justifications-narrow", "grant-conditional", GRANT_IN_ANOTHER_FORM}
)
"""Rules that find a risk while validation succeeds, and its cause when it fails."""


def judge(snapshot: KeySnapshot, previous: KeyRecord | None, run: CheckRun) -> KeyRecord:
    """Judge a key by what was read.

    Args:
        snapshot: Of this check; `baseline` and `unreachable` come from earlier checks.
        previous: The last record; None at the first check.
        run: Time and flow run.
    """
    found = [one for rule in _rules(snapshot) for one in rule.judge(snapshot)]
    found = [_as_validated(reason, snapshot, previous) for reason in found]
    found += _unread(snapshot)
    # a failed validation that our reads do not explain may be trouble of Anthropic or the network
    causes = [r for r in found if r.means is Health.BROKEN or r.rule in MAY_STOP_ANTHROPIC]
    found += _validation(snapshot, causes)
    unreachable = _unreachable(snapshot, found, run)
    if unreachable and has_failed_for_a_day(unreachable, run.now):
        found = [_escalated(reason, unreachable) for reason in found]
    # a quick check does not read everything: what it did not read is still true as last seen
    carried = list(_carried(previous, snapshot, found))
    reasons = _ordered(_dated(found, previous, run.now), carried)
    verdict = _verdict(found, carried)
    return _record(snapshot, previous, run, verdict, reasons).model_copy(
        update={"unreachable": unreachable, "baseline": _baseline(snapshot, run)}
    )


def unfinished(
    snapshot: KeySnapshot, previous: KeyRecord | None, run: CheckRun, why: str
) -> KeyRecord:
    """The record of a key that was not checked, for example because the deadline had passed."""
    reason = HealthReason(
        rule=UNFINISHED,
        means=Health.UNKNOWN,
        severity=Severity.MEDIUM,
        says=why,
        who_can_tell="the next revalidation",
    )
    reasons = _ordered(_dated([reason], previous, run.now), _carried(previous, None))
    record = _record(snapshot, previous, run, Health.UNKNOWN, reasons)
    kept = {"unreachable": snapshot.unreachable, "baseline": snapshot.baseline}
    return record.model_copy(update=kept)


def _record(
    snapshot: KeySnapshot,
    previous: KeyRecord | None,
    run: CheckRun,
    verdict: Health,
    reasons: tuple[HealthReason, ...],
) -> KeyRecord:
    notified = previous.announced if previous else Health.HEALTHY
    notified_at = previous.announced_at if previous else None
    # people are not notified of an unknown health: they still know the verdict before it
    announced = notified if verdict is Health.UNKNOWN else verdict
    known = previous.known_reasons if previous else ()
    after = announced_reasons(known, reasons, verdict, run.now)
    before, before_at, known_before = notified, notified_at, known
    # a retry of this run finds its own record here, but its event may not have been sent
    if previous is not None and previous.run_id == run.run_id:
        before, before_at = previous.announced_before, previous.announced_before_at
        known_before = previous.announced_reasons_before or ()
    unchanged = announced is notified and not newly_announced(after, known)
    return KeyRecord(
        external_key_id=snapshot.external_key_id,
        key_name=snapshot.registered_name,
        workspaces=snapshot.workspaces,
        verdict=verdict,
        since=_since(verdict, reasons, previous, run.now),
        checked_at=run.now,
        depth=snapshot.depth,
        run_id=run.run_id,
        reasons=reasons,
        announced=announced,
        announced_before=before,
        # also for the first record: the id of the next event is made from it (see `event_id`)
        announced_at=notified_at if previous and unchanged else run.now,
        announced_before_at=before_at,
        announced_reasons=after,
        announced_reasons_before=known_before,
        fingerprint=snapshot.fingerprint,
    )


def _rules(snapshot: KeySnapshot) -> Iterator[HealthRule]:
    parts = _parts(snapshot)
    return (rule for rule in HEALTH_RULES if rule.part in parts)


def _parts(snapshot: KeySnapshot) -> frozenset[Part]:
    """The parts that were read; for a key that does not exist they are complete."""
    parts: set[Part] = {"name"}
    if isinstance(snapshot.key, Ok):
        parts.add("key")
        if snapshot.key.value is None:
            parts |= {"versions", "policy"}
    if isinstance(snapshot.versions, Ok):
        parts.add("versions")
    if isinstance(snapshot.policy, Ok) and isinstance(snapshot.ring_policy, Ok):
        parts.add("policy")
    return frozenset(parts)


def _as_validated(
    reason: HealthReason, snapshot: KeySnapshot, previous: KeyRecord | None
) -> HealthReason:
    """A missing grant is a risk only for as long as Anthropic's validation succeeds.

    Grants above the project are not read here. But a validation may also succeed for some time
    after a grant was removed, so it is as urgent as before. Without a result of this check, the
    last one decides.
    """
    if reason.rule != GRANT_MISSING:
        return reason
    validation = ok_value(snapshot.validation)
    if validation is not None:
        succeeds = validation.succeeded
    else:
        at_risk = (
            (r.identity for r in previous.reasons if r.means is Health.AT_RISK) if previous else ()
        )
        succeeds = reason.identity in at_risk
    if not succeeds:
        return reason
    says = (
        f"{reason.says}, but Anthropic's validation succeeds: perhaps by another role, by a grant "
        "above the project, or because the grant was removed just now: IAM changes take minutes"
    )
    return reason.model_copy(update={"means": Health.AT_RISK, "says": says})


def _unread(snapshot: KeySnapshot) -> Iterator[HealthReason]:
    for what, read in (
        ("the key", snapshot.key),
        ("the versions", snapshot.versions),
        ("the key's policy", snapshot.policy),
        ("the key ring's policy", snapshot.ring_policy),
        (
            "the project's policy",
            snapshot.project_policy if grant_may_be_on_project(snapshot) else None,
        ),
    ):
        if isinstance(read, Failed):
            yield HealthReason(
                rule=UNREAD,
                means=Health.UNKNOWN,
                severity=Severity.HIGH,
                subject=what,
                says=f"{what} could not be read: {read.text}",
                who_can_tell=_who(read),
            )


_STOPS_EVERYBODY: Final = {
    "BILLING_DISABLED": "whoever links a billing account to {project}",
    "SERVICE_DISABLED": "whoever enables {service} in {project}",
    "CONSUMER_INVALID": "whoever owns {project}: Google says that there is no such project",
    "CONSUMER_SUSPENDED": "whoever owns {project}: Google has suspended it",
    "SECURITY_POLICY_VIOLATED": "whoever administers the VPC Service Controls around {project}",
}
"""Reasons for which Cloud KMS refuses others than us as well, and who can end that."""


def _stops_everybody(snapshot: KeySnapshot) -> Failed | None:
    """A refused read of the key that explains why Anthropic can't use the key either.

    A refusal that names another project by its id is about our own quota project. By its number
    the two can't be told apart.
    """
    project = snapshot.name.project if snapshot.name else ""
    for read in (snapshot.key, snapshot.versions, snapshot.policy, snapshot.ring_policy):
        if isinstance(read, Failed) and read.reason in _STOPS_EVERYBODY:
            named = (read.consumer or "").removeprefix("projects/")
            if named in {"", project} or named.isdecimal():
                return read
    return None


def _who(read: Failed) -> str:
    if read.reason in _STOPS_EVERYBODY:
        return _STOPS_EVERYBODY[read.reason].format(
            service=read.service or "the API", project=read.consumer or "the project"
        )
    if read.reason == "CLOCK":
        return "whoever sets the clock of the worker's machine"
    refused = read.status in {"PERMISSION_DENIED", "403", "UNAUTHENTICATED", "401"}
    # without a token server there is no token, which is no lack of a right
    if refused and read.reason not in LOST:
        return "whoever administers the credential of the worker: it lacks the right to read this"
    return "the next check; if it stays so, whoever runs the network between here and there"


def _validation(snapshot: KeySnapshot, causes: Collection[HealthReason]) -> Iterator[HealthReason]:
    answer = snapshot.validation
    if answer is None:
        return
    if isinstance(answer, Failed):
        yield HealthReason(
            rule=VALIDATION_UNANSWERED,
            means=Health.UNKNOWN,
            severity=Severity.HIGH,
            says=f"Anthropic did not validate the key: {answer.text}",
            who_can_tell=_who(answer),
        )
    elif not answer.value.succeeded:
        refused = _stops_everybody(snapshot)
        request = f" (request {answer.value.request_id})" if answer.value.request_id else ""
        says = (
            f"Anthropic could not use the key: {answer.value.error or 'no reason given'}{request}"
        )
        if causes or refused:
            cause_is_broken = any(one.means is Health.BROKEN for one in causes)
            yield HealthReason(
                rule=VALIDATION_FAILED,
                means=Health.BROKEN,
                # a cause that is broken already says how urgent it is
                severity=Severity.HIGH if cause_is_broken else Severity.CRITICAL,
                says=says
                + (f". Cloud KMS refuses our reads as well: {refused}" if refused else ""),
            )
        else:
            yield HealthReason(
                rule=VALIDATION_UNEXPLAINED,
                means=Health.UNKNOWN,
                severity=Severity.HIGH,
                says=f"{says}{NO_CAUSE}; it counts as broken after a day",
                who_can_tell="Anthropic's support, by the request id",
            )


def _unreachable(
    snapshot: KeySnapshot, found: Iterable[HealthReason], run: CheckRun
) -> UnreachableState | None:
    """The state of a key that can't be judged; None when everything was read, or it is broken."""
    meanings = {reason.means for reason in found}
    if Health.UNKNOWN not in meanings or Health.BROKEN in meanings:
        return None
    validation = ok_value(snapshot.validation)
    return record_failed_check(
        snapshot.unreachable,
        run,
        snapshot.external_key_id,
        validated=validation.succeeded if validation else None,
    )


def _escalated(reason: HealthReason, unreachable: UnreachableState) -> HealthReason:
    """The reason after a day of failed validations: the key is broken, whatever the cause."""
    if reason.rule != VALIDATION_UNEXPLAINED:
        return reason
    return reason.model_copy(
        update={
            "rule": VALIDATION_FAILED,
            "means": Health.BROKEN,
            "severity": Severity.CRITICAL,
            "since": unreachable.failing_since,
            "says": reason.says.rpartition(NO_CAUSE)[0]
            + f". No validation succeeded since {unreachable.failing_since:%Y-%m-%d %H:%M %Z}",
        }
    )


def _carried(
    previous: KeyRecord | None,
    snapshot: KeySnapshot | None,
    found: Collection[HealthReason] = (),
) -> Iterator[HealthReason]:
    """Reasons of the last record about parts that this check did not read.

    Without a snapshot nothing was read.
    """
    parts = _parts(snapshot) if snapshot else frozenset()
    validated = snapshot is None or snapshot.validation is not None
    again = {reason.identity for reason in found}
    for reason in previous.reasons if previous else ():
        unread = reason.rule in PART_OF and PART_OF[reason.rule] not in parts
        if snapshot and reason.identity not in again:
            unread = unread or may_be_on_unread_project(reason.rule, reason.subject, snapshot)
        if unread or (reason.rule == VALIDATION_FAILED and not validated):
            seen_at = reason.seen_at or (previous.checked_at if previous else None)
            yield reason.model_copy(update={"seen_at": seen_at})


def _dated(
    found: Iterable[HealthReason], previous: KeyRecord | None, now: datetime
) -> Iterator[HealthReason]:
    """The reasons with `since`: from the resource, else from the first check that found them."""
    known = {reason.identity: reason.since for reason in previous.reasons} if previous else {}
    for reason in found:
        since = reason.since or known.get(reason.identity) or now
        yield reason.model_copy(update={"since": since})


def _ordered(
    dated: Iterable[HealthReason], carried: Iterable[HealthReason]
) -> tuple[HealthReason, ...]:
    """All reasons: the worst first, then the most severe, then those with the least time left."""

    def order(reason: HealthReason) -> tuple[int, int, float, str, str]:
        final = reason.final_at.timestamp() if reason.final_at else float("inf")
        return (-reason.means.rank, -reason.severity.rank, final, *reason.identity)

    return tuple(sorted([*dated, *carried], key=order))


def _verdict(found: Iterable[HealthReason], carried: Iterable[HealthReason]) -> Health:
    """The verdict: broken wins over unknown, and unknown wins over reasons of earlier checks."""
    fresh = {reason.means for reason in found} | {Health.HEALTHY}
    worst = max(fresh, key=lambda verdict: verdict.rank)
    if worst in (Health.BROKEN, Health.UNKNOWN):
        return worst
    return max(fresh | {reason.means for reason in carried}, key=lambda verdict: verdict.rank)


def _since(
    verdict: Health, reasons: Iterable[HealthReason], previous: KeyRecord | None, now: datetime
) -> datetime:
    if previous is not None and previous.verdict is verdict:
        return previous.since  # other reasons, perhaps, but the same verdict all the time
    dates = [reason.since for reason in reasons if reason.means is verdict and reason.since]
    return min(dates, default=now) if verdict is not Health.HEALTHY else now


def _baseline(snapshot: KeySnapshot, run: CheckRun) -> Baseline | None:
    """The existing baseline; without one, what this check found, if it read everything."""
    key = snapshot.crypto_key
    # what is missing in an incomplete baseline would be reported as drift, or hide drift
    complete = key is not None and {"versions", "policy"} <= _parts(snapshot)
    if snapshot.baseline is not None:
        return snapshot.baseline.without_usable(_seen_versions(snapshot))
    if key is None or not complete:
        return None
    return Baseline.of(
        key,
        source="first look",
        now=run.now,
        decrypters=(),
        unusable_versions=tuple(v.id for v in snapshot.all_versions if v.state in UNUSABLE),
    )


def _seen_versions(snapshot: KeySnapshot) -> tuple[KeyVersion, ...]:
    """The versions that this check read: all, or the primary with the key."""
    key = snapshot.crypto_key
    primary = (key.primary,) if key and key.primary else ()
    return (*snapshot.all_versions, *primary)


def needs_validation(snapshot: KeySnapshot, previous: KeyRecord | None) -> bool:
    """Whether a quick check needs a validation: something has changed, or is still unknown.

    A validation uses the customer's key and fills its audit log. So a key is not validated again
    while nothing has changed and its last validation had a clear result. After a grant was removed
    a success is not clear for some time, so for a day each check validates. A failure may pass, so
    each check validates until one succeeds.
    """
    if previous is None or previous.fingerprint is None:
        return True
    unsettled = previous.verdict is Health.UNKNOWN or previous.unreachable is not None
    unsettled |= any(reason.rule == VALIDATION_FAILED for reason in previous.reasons)
    unsettled |= any(
        reason.rule in {GRANT_MISSING, GRANT_IN_ANOTHER_FORM}
        and reason.means is Health.AT_RISK
        and reason.since is not None
        and snapshot.now - reason.since < LONGEST
        for reason in previous.reasons
    )
    return unsettled or snapshot.fingerprint != previous.fingerprint
