"""A key that can't be judged: when it is checked again, and since when its validation has failed.

It is checked again five times, once a minute, and then every five minutes for a day; cloud services
with customer-managed keys publish such schedules. Pure.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cmek.keys.verdicts import CheckRun, UnreachableState

SOON: Final = timedelta(minutes=1)
SOON_CHECKS: Final = 5
LATER: Final = timedelta(minutes=5)
LONGEST: Final = timedelta(days=1)


def record_failed_check(
    before: UnreachableState | None,
    run: CheckRun,
    external_key_id: str,
    *,
    validated: bool | None,
) -> UnreachableState:
    """The state after one more check that found the key unreachable.

    A key has one chain of follow-ups: each schedules the next one. Any other run that finds the key
    unreachable leaves it to the follow-up that is to come. If that one is late, the run schedules
    another in its place; the late one then only checks.

    Args:
        before: From earlier checks; None at the first.
        run: Time and flow run.
        external_key_id: The external key.
        validated: Whether Anthropic's validation succeeded; None if it gave no result.
    """
    now = run.now
    if before is None:  # the first check is no recheck, hence -1
        before = UnreachableState(
            external_key_id=external_key_id, since=now, rechecks=-1, anthropic_failed=False
        )
    failing_since = _failing_since(before, now, validated=validated)
    validations = {
        "anthropic_failed": failing_since is not None,
        "anthropic_failing_since": failing_since,
    }
    if _leaves_it_to_another(before, run):
        return before.model_copy(update=validations | {"rechecks": max(before.rechecks, 0)})
    rechecks = before.rechecks + 1
    return before.model_copy(
        update={
            **validations,
            "rechecks": rechecks,
            "next_check": _next_check(before.since, rechecks, now),
            "scheduled_by": run.run_id,
        }
    )


def _leaves_it_to_another(before: UnreachableState, run: CheckRun) -> bool:
    """Whether this run schedules no check: it can't, or the key's next one is scheduled already."""
    if not run.schedules_follow_up:
        return True
    if before.next_check is None:
        return False
    if run.recheck_of is not None:
        # by the run alone: a retry of it may have set another time, but has the same follow-up
        if run.recheck_of.scheduled_by == before.scheduled_by:
            return False
        if before.scheduled_by != run.run_id:  # replaced, unless this is a retry of the follow-up
            return True
    return before.next_check > run.now


def _failing_since(
    before: UnreachableState, now: datetime, *, validated: bool | None
) -> datetime | None:
    """The first failed validation since the last success; one without a result changes nothing."""
    if validated:
        return None
    since = before.failing_since
    if since is None:
        return None if validated is None else now
    return min(since, now)  # a later time comes from a wrong clock, and would delay the verdict


def has_failed_for_a_day(unreachable: UnreachableState, now: datetime) -> bool:
    """Whether Anthropic's validation has failed for a day; then the key is broken."""
    since = unreachable.failing_since
    return since is not None and now - since >= LONGEST


def _next_check(since: datetime, rechecks: int, now: datetime) -> datetime | None:
    if now - since >= LONGEST:
        return None
    return min(now + (SOON if rechecks < SOON_CHECKS else LATER), since + LONGEST)
