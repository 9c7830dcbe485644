"""When people are notified of a verdict on an onboarded key: once for each change, by one event.

Runs that find the same change at the same time, and retries, send the same event. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import takewhile
from typing import Final
from uuid import UUID, uuid5

from cmek.keys.verdicts import CLOCKS_DIFFER, AnnouncedReason, Health, HealthReason, KeyRecord

_REMEMBERED: Final = timedelta(days=1)
"""How long a reason that is gone still counts as announced."""


def announced_reasons(
    known: Iterable[AnnouncedReason],
    reasons: Iterable[HealthReason],
    verdict: Health,
    now: datetime,
) -> tuple[AnnouncedReason, ...]:
    """The urgent reasons that people know after a check.

    One that is gone is forgotten after a day only: if it comes and goes, that is no news each time.
    """
    found = {one.identity: one for one in reasons if one.is_urgent}
    after: dict[tuple[str, str], AnnouncedReason] = {}
    for one in known:
        # a later time comes from a wrong clock, and would keep it for too long
        gone = None if one.identity in found else min(one.gone_since or now, now)
        if gone is None or now - gone < _REMEMBERED:
            after[one.identity] = one.model_copy(update={"gone_since": gone})
    if verdict is not Health.UNKNOWN:  # people are not notified of anything then
        newly = newly_announced(map(AnnouncedReason.of, found.values()), after.values())
        after |= {identity: AnnouncedReason.of(found[identity]) for identity in newly}
    return tuple(after[identity] for identity in sorted(after))


def newly_announced(
    after: Iterable[AnnouncedReason], before: Iterable[AnnouncedReason]
) -> frozenset[tuple[str, str]]:
    """The identities of the reasons that were not announced before, or for a better verdict."""
    known = {one.identity: one.means.rank for one in before}
    return frozenset(one.identity for one in after if one.means.rank > known.get(one.identity, -1))


_NAMESPACE: Final = UUID("3c1c8a0e-6a5b-5a53-9d0f-7c8f6f1f8f57")


class HealthEvent(StrEnum):
    """The events that notify of a change."""

    BROKEN = "cmek.key.broken"
    AT_RISK = "cmek.key.at_risk"
    RECOVERED = "cmek.key.recovered"


_EVENTS: Final = {
    Health.BROKEN: HealthEvent.BROKEN,
    Health.AT_RISK: HealthEvent.AT_RISK,
    Health.HEALTHY: HealthEvent.RECOVERED,
}


def health_event(record: KeyRecord) -> HealthEvent | None:
    """The kind of the events for this check; None when there is nothing to notify of.

    People are notified of a verdict that they don't know, and of an urgent reason under the same
    verdict. A new key counts as healthy. `unknown` is not a change: the announced verdict stays.
    """
    return _EVENTS[record.announced] if announced_now(record) else None


def announced_now(record: KeyRecord) -> tuple[HealthReason | None, ...]:
    """For each event of this check the reason that it shows; None if the key is healthy.

    A changed verdict is one event, with the worst reason. If the verdict is known already, each
    urgent reason that is not is an event of its own.
    """
    if _verdict_changed(record):
        return (record.worst,)
    newly = newly_announced(record.announced_reasons or (), record.announced_reasons_before or ())
    return tuple(one for one in record.reasons if one.is_urgent and one.identity in newly)


def _verdict_changed(record: KeyRecord) -> bool:
    return record.announced is not record.announced_before


def event_id(record: KeyRecord, what: HealthEvent, reason: HealthReason | None) -> UUID:
    """The event's id: equal for a retry, and for two runs that find one change at the same time.

    So it is made from the time of the last announcement. A key without a record has none: then the
    run's id is used.

    Args:
        record: Of the check.
        what: The kind of the event.
        reason: The one that the event shows. It is in the id unless the verdict is the news: two
            runs may find one change of the verdict for different reasons.
    """
    since = record.announced_before_at or record.run_id
    parts = [str(since), record.external_key_id, what]
    if reason is not None and not _verdict_changed(record):
        parts += [reason.rule, reason.subject, reason.means]
    return uuid5(_NAMESPACE, " ".join(parts))


def agreed(record: KeyRecord, previous: KeyRecord | None, recent: Iterable[KeyRecord]) -> KeyRecord:
    """The record, corrected by what other runs have announced since `previous` was read.

    What another run has announced is not announced again. If another run has checked the key later,
    no event is sent for this record. It then takes over what was announced: the next check compares
    with it, and what was never announced must be news to that check.

    Args:
        record: Of this check.
        previous: The last record that this check knew.
        recent: The last records of the key, newest first. This order is reliable; clocks are not.
    """
    meanwhile = takewhile(lambda one: one != previous, recent)
    newest = next((one for one in meanwhile if one.run_id != record.run_id), None)
    if newest is None:
        return record
    known, at, reasons = newest.announced, newest.announced_at, newest.known_reasons
    # also as the state before this run, from which a retry of it continues
    changes = {
        "announced_before": known,
        "announced_before_at": at,
        "announced_reasons_before": reasons,
    }
    # a time too far ahead comes from a wrong clock, and is not later than this check
    ahead = newest.checked_at - record.checked_at
    if timedelta(0) < ahead <= CLOCKS_DIFFER:
        taken_over = {"announced": known, "announced_at": at, "announced_reasons": reasons}
        return record.model_copy(update=changes | taken_over)
    after = announced_reasons(reasons, record.reasons, record.verdict, record.checked_at)
    unchanged = known is record.announced and not newly_announced(after, reasons)
    changes |= {"announced_at": at if unchanged else record.checked_at, "announced_reasons": after}
    return record.model_copy(update=changes)


def is_news(record: KeyRecord, previous: KeyRecord | None) -> bool:
    """Whether a check found anything that is not in the key's last record."""
    if previous is None:
        return True
    # these differ from check to check without anything new; reasons are compared by identity
    unseen = {
        *("checked_at", "run_id", "depth", "reasons", "announced_reasons"),
        *("announced_before", "announced_before_at", "announced_reasons_before"),
    }
    reasons = {reason.identity for reason in record.reasons}
    known = {reason.identity for reason in previous.reasons}
    if reasons != known or record.known_reasons != previous.known_reasons:
        return True
    return record.model_dump(exclude=unseen) != previous.model_dump(exclude=unseen)
