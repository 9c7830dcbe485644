"""Keys that can't be looked at: when to look again, and what they are after a day.

Once a minute five times, then every five minutes for a day, as services that hold customers' keys
publish it. Then a key is broken if Anthropic's own validation failed all along; if only our reads
were refused, nobody knows.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cmek.health.model import Look, Unreachability

SOON: Final = timedelta(minutes=1)
SOON_LOOKS: Final = 5
LATER: Final = timedelta(minutes=5)
LONGEST: Final = timedelta(days=1)


def looked(
    before: Unreachability | None, look: Look, external_key_id: str, *, anthropic_failed: bool
) -> Unreachability:
    """What is known after one more look that found the key unreachable.

    Only the follow-up that was scheduled for a key sees to its next look; another run that finds
    it unreachable meanwhile leaves it to that follow-up, unless that one is late.

    Args:
        before: From the looks before; None at the first.
        look: Time and flow run.
        external_key_id: Whose.
        anthropic_failed: Whether Anthropic's validation failed at this look.
    """
    now = look.now
    if before is None:
        before = Unreachability(
            external_key_id=external_key_id, since=now, looks=-1, anthropic_failed=True
        )
    failed = before.anthropic_failed and anthropic_failed
    waits_for_another = before.next_look is not None and before.next_look > now
    if waits_for_another and not look.asked_to and before.scheduled_by != look.run_id:
        return before.model_copy(update={"anthropic_failed": failed})
    looks = before.looks + 1
    return before.model_copy(
        update={
            "looks": looks,
            "anthropic_failed": failed,
            "next_look": _next_look(before.since, looks, now),
            "scheduled_by": look.run_id,
        }
    )


def is_over(unreachable: Unreachability, now: datetime) -> bool:
    """Whether the day is over, so that the verdict falls."""
    return now - unreachable.since >= LONGEST


def _next_look(since: datetime, looks: int, now: datetime) -> datetime | None:
    if now - since >= LONGEST:
        return None
    return min(now + (SOON if looks < SOON_LOOKS else LATER), since + LONGEST)
