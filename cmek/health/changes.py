"""What people are told: only changes of what they were told before."""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from uuid import UUID, uuid5

from cmek.health.model import KeyRecord, Verdict

_NAMESPACE: Final = UUID("3c1c8a0e-6a5b-5a53-9d0f-7c8f6f1f8f57")


class Change(StrEnum):
    """The event to send."""

    BROKEN = "cmek.key.broken"
    AT_RISK = "cmek.key.at_risk"
    RECOVERED = "cmek.key.recovered"


_EVENTS: Final = {
    Verdict.BROKEN: Change.BROKEN,
    Verdict.AT_RISK: Change.AT_RISK,
    Verdict.HEALTHY: Change.RECOVERED,
}


def change(record: KeyRecord) -> Change | None:
    """The event for this look, None when people know already or nobody knows.

    A key starts as healthy; `unknown` is neither a change nor forgets what was told.
    """
    if record.announced is record.announced_before:
        return None
    return _EVENTS[record.announced]


def event_id(record: KeyRecord, what: Change) -> UUID:
    """The same for a run that is retried, so that the server takes the event once."""
    return uuid5(_NAMESPACE, f"{record.run_id} {record.external_key_id} {what}")
