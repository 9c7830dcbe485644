"""From a reading to a record: rules, what could not be read, and what the last look knew. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from cmek.checks.outcome import Answer, Refused
from cmek.health import unreachable
from cmek.health.access_rules import hangs_on_project
from cmek.health.model import (
    Baseline,
    KeyRecord,
    Look,
    Reason,
    Severity,
    Unreachability,
    Verdict,
)
from cmek.health.reading import UNUSABLE, KeyReading
from cmek.health.rule import Part, Rule
from cmek.health.rules import PART_OF, RULES

VALIDATION_FAILED = "validation-failed"
VALIDATION_UNEXPLAINED = "validation-unexplained"
VALIDATION_UNANSWERED = "validation-unanswered"
UNREAD = "unread"
UNFINISHED = "unfinished"
MAY_STOP_ANTHROPIC = frozenset({"justifications-narrow", "grant-conditional"})
"""What is a risk while validation succeeds, and the cause once it fails."""


def judge(reading: KeyReading, previous: KeyRecord | None, look: Look) -> KeyRecord:
    """The verdict on what was read.

    Args:
        reading: From one look; its baseline and unreachability come from the looks before.
        previous: The last record, None at the first look.
        look: Time and flow run.
    """
    found = [one for rule in _rules(reading) for one in rule.judge(reading)]
    found += _unread(reading)
    explained = any(r.means is Verdict.BROKEN or r.rule in MAY_STOP_ANTHROPIC for r in found)
    found += _validation(reading, explained=explained)
    beyond_reach = _beyond_reach(reading, found, look)
    if (
        beyond_reach
        and beyond_reach.anthropic_failed
        and unreachable.is_over(beyond_reach, look.now)
    ):
        found = [_fallen(reason, beyond_reach) for reason in found]
    carried = list(_carried(previous, _parts(reading)))
    reasons = _ordered(_dated(found, previous, look.now), carried)
    verdict = _verdict(found, carried)
    return _record(reading, previous, look, verdict, reasons).model_copy(
        update={"unreachable": beyond_reach, "baseline": _baseline(reading, look)}
    )


def unfinished(reading: KeyReading, previous: KeyRecord | None, look: Look, why: str) -> KeyRecord:
    """The record of a key that nobody could look at, for example before the deadline."""
    reason = Reason(
        rule=UNFINISHED,
        means=Verdict.UNKNOWN,
        severity=Severity.MEDIUM,
        says=why,
        who_can_tell="the next revalidation",
    )
    reasons = _ordered(_dated([reason], previous, look.now), _carried(previous, frozenset()))
    record = _record(reading, previous, look, Verdict.UNKNOWN, reasons)
    kept = {"unreachable": reading.unreachable, "baseline": reading.baseline}
    return record.model_copy(update=kept)


def _record(
    reading: KeyReading,
    previous: KeyRecord | None,
    look: Look,
    verdict: Verdict,
    reasons: tuple[Reason, ...],
) -> KeyRecord:
    told = previous.announced if previous else Verdict.HEALTHY
    same_run = previous is not None and previous.run_id == look.run_id
    return KeyRecord(
        external_key_id=reading.external_key_id,
        key_name=reading.registered_name,
        workspaces=reading.workspaces,
        verdict=verdict,
        since=_since(verdict, reasons, previous, look.now),
        checked_at=look.now,
        depth=reading.depth,
        run_id=look.run_id,
        reasons=reasons,
        announced=told if verdict is Verdict.UNKNOWN else verdict,
        announced_before=previous.announced_before if previous and same_run else told,
    )


def _rules(reading: KeyReading) -> Iterator[Rule]:
    parts = _parts(reading)
    return (rule for rule in RULES if rule.part in parts)


def _parts(reading: KeyReading) -> frozenset[Part]:
    """What was read; of a key that does not exist there is nothing more to read."""
    parts: set[Part] = {"name"}
    if isinstance(reading.key, Answer):
        parts.add("key")
        if reading.key.value is None:
            parts |= {"versions", "policy"}
    if isinstance(reading.versions, Answer):
        parts.add("versions")
    if isinstance(reading.policy, Answer) and isinstance(reading.ring_policy, Answer):
        parts.add("policy")
    return frozenset(parts)


def _unread(reading: KeyReading) -> Iterator[Reason]:
    for what, read in (
        ("the key", reading.key),
        ("the versions", reading.versions),
        ("the key's policy", reading.policy),
        ("the key ring's policy", reading.ring_policy),
        ("the project's policy", reading.project_policy if hangs_on_project(reading) else None),
    ):
        if isinstance(read, Refused):
            yield Reason(
                rule=UNREAD,
                means=Verdict.UNKNOWN,
                severity=Severity.HIGH,
                subject=what,
                says=f"{what} could not be read: {read.text}",
                who_can_tell=_who(read),
            )


def _who(read: Refused) -> str:
    if read.status in {"PERMISSION_DENIED", "403", "UNAUTHENTICATED", "401"}:
        return "whoever administers the credential of the worker: it lacks the right to read this"
    return "the next look; if it stays so, whoever runs the network between here and there"


def _validation(reading: KeyReading, *, explained: bool) -> Iterator[Reason]:
    answer = reading.validation
    if isinstance(answer, Refused):
        yield Reason(
            rule=VALIDATION_UNANSWERED,
            means=Verdict.UNKNOWN,
            severity=Severity.HIGH,
            says=f"Anthropic did not validate the key: {answer.text}",
            who_can_tell=_who(answer),
        )
    elif not answer.value.succeeded:
        request = f" (request {answer.value.request_id})" if answer.value.request_id else ""
        yield Reason(
            rule=VALIDATION_FAILED if explained else VALIDATION_UNEXPLAINED,
            means=Verdict.BROKEN if explained else Verdict.UNKNOWN,
            severity=Severity.HIGH,
            says=f"Anthropic could not use the key: {answer.value.error or 'no reason given'}"
            f"{request}"
            + ("" if explained else ". Our reads show no cause; it counts as broken after a day"),
            who_can_tell=None if explained else "Anthropic's support, by the request id",
        )


def _beyond_reach(
    reading: KeyReading, found: Iterable[Reason], look: Look
) -> Unreachability | None:
    """None once everything could be read, or a cause was found."""
    meanings = {reason.means for reason in found}
    if Verdict.UNKNOWN not in meanings or Verdict.BROKEN in meanings:
        return None
    return unreachable.looked(
        reading.unreachable,
        look,
        reading.external_key_id,
        anthropic_failed=reading.anthropic_failed,
    )


def _fallen(reason: Reason, beyond_reach: Unreachability) -> Reason:
    """After a day of failed validations."""
    if reason.rule != VALIDATION_UNEXPLAINED:
        return reason
    return reason.model_copy(
        update={
            "rule": VALIDATION_FAILED,
            "means": Verdict.BROKEN,
            "severity": Severity.CRITICAL,
            "since": beyond_reach.since,
            "says": reason.says.partition(". Our reads")[0]
            + f". It failed at every look since {beyond_reach.since:%Y-%m-%d %H:%M %Z}",
        }
    )


def _carried(previous: KeyRecord | None, parts: frozenset[Part]) -> Iterator[Reason]:
    """What the last look found where this one did not look."""
    for reason in previous.reasons if previous else ():
        if reason.rule in PART_OF and PART_OF[reason.rule] not in parts:
            seen_at = reason.seen_at or (previous.checked_at if previous else None)
            yield reason.model_copy(update={"seen_at": seen_at})


def _dated(found: Iterable[Reason], previous: KeyRecord | None, now: datetime) -> Iterator[Reason]:
    """Since when: what the resource tells, else the first look that found it."""
    known = {reason.identity: reason.since for reason in previous.reasons} if previous else {}
    for reason in found:
        since = reason.since or known.get(reason.identity) or now
        yield reason.model_copy(update={"since": since})


def _ordered(dated: Iterable[Reason], carried: Iterable[Reason]) -> tuple[Reason, ...]:
    """Worst first, then the most urgent, then the one with the least time left."""

    def order(reason: Reason) -> tuple[int, int, float, str, str]:
        final = reason.final_at.timestamp() if reason.final_at else float("inf")
        return (-reason.means.rank, -reason.severity.rank, final, *reason.identity)

    return tuple(sorted([*dated, *carried], key=order))


def _verdict(found: Iterable[Reason], carried: Iterable[Reason]) -> Verdict:
    """What is broken is broken, whatever else could not be read; else unknown beats old news."""
    fresh = {reason.means for reason in found} | {Verdict.HEALTHY}
    worst = max(fresh, key=lambda verdict: verdict.rank)
    if worst in (Verdict.BROKEN, Verdict.UNKNOWN):
        return worst
    return max(fresh | {reason.means for reason in carried}, key=lambda verdict: verdict.rank)


def _since(
    verdict: Verdict, reasons: Iterable[Reason], previous: KeyRecord | None, now: datetime
) -> datetime:
    if previous is not None and previous.verdict is verdict:
        return previous.since
    dates = [reason.since for reason in reasons if reason.means is verdict and reason.since]
    return min(dates, default=now) if verdict is not Verdict.HEALTHY else now


def _baseline(reading: KeyReading, look: Look) -> Baseline | None:
    """The one that there is, else what this look found, if it was full and everything was read."""
    key = reading.found_key
    complete = key is not None and {"versions", "policy"} <= _parts(reading)
    if reading.baseline is not None or key is None or not complete:
        return reading.baseline
    return Baseline.of(
        key,
        source="first look",
        now=look.now,
        decrypters=(),
        unusable_versions=tuple(v.id for v in reading.all_versions if v.state in UNUSABLE),
    )
