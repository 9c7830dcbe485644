"""The history of a key: its first record, and the page for one record.

The page is for people; it ends with the record for programs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from cmek.keys.verdicts import UNUSABLE, Baseline, Health, HealthReason, KeyRecord
from cmek.plain_text import code, escape, table

if TYPE_CHECKING:
    from cmek.onboarding.plan import LiveFacts

SIGNS: Final = {
    Health.HEALTHY: "🟢 healthy",
    Health.AT_RISK: "🟠 at risk",
    Health.BROKEN: "🔴 broken",
    Health.UNKNOWN: "❔ unknown",
}
_RECORD: Final = "```json\n"
_END: Final = "\n```"


def key_title(record: KeyRecord) -> str:
    """A key's title: its workspaces and its short name."""
    users = ", ".join(record.workspaces) or "no workspace"
    return f"{users} · {record.key_name.rpartition('/')[2]}"


def key_page(record: KeyRecord) -> str:
    """The page for one record, in Markdown."""
    about = (
        f"Key {code(record.key_name)}, external key {code(record.external_key_id)}. "
        f"Checked at {_when(record.checked_at)}, {record.depth}."
    )
    parts = [
        f"# {escape(key_title(record))}",
        f"## {SIGNS[record.verdict]} since {_when(record.since)}",
        about,
        *_reasons(record),
        *_unreachable(record),
        "### Record",
        # an escape of JSON, so that no text of the record ends the fence
        _RECORD + record.model_dump_json().replace("`", "\\u0060") + _END,
    ]
    return "\n\n".join(parts)


def read_page(page: str) -> KeyRecord | None:
    """The record at the end of a page; None when it is not ours, or from an older release."""
    _, found, rest = page.rpartition(_RECORD)
    try:
        return KeyRecord.model_validate_json(rest.removesuffix(_END)) if found else None
    except ValidationError:
        return None


def shown_time(duration: timedelta) -> str:
    """A duration in its two largest units, rounded down: `6 d 23 h`, `5 h 10 min`, `12 min`."""
    minutes = max(0, int(duration.total_seconds() // 60))
    hours, days = minutes // 60, minutes // (24 * 60)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _reasons(record: KeyRecord) -> Iterator[str]:
    if not record.reasons:
        yield "Nothing is wrong with it."
        return
    head = ("severity", "rule", "what", "since", "time left", "means")
    yield table(head, (_row(reason, record.checked_at) for reason in record.reasons))
    for reason in record.reasons:
        if reason.commands:
            subject = f" {escape(reason.subject)}" if reason.subject else ""
            yield f"### What to do: {reason.rule}{subject}"
            yield "```sh\n" + "\n".join(map(_one_line, reason.commands)) + "\n```"


def _row(reason: HealthReason, now: datetime) -> tuple[str, ...]:
    left = reason.time_left(now)
    benchmark = f" ({reason.benchmark})" if reason.benchmark else ""
    who = f" Who can tell: {reason.who_can_tell}." if reason.who_can_tell else ""
    seen = f" Seen {_when(reason.seen_at)}, not checked again since." if reason.seen_at else ""
    return (
        reason.severity,
        escape(reason.rule + benchmark),
        escape(f"{reason.says}.{who}{seen}"),
        _when(reason.since) if reason.since else "",
        shown_time(left) if left is not None else "",
        SIGNS[reason.means] if reason.means is not Health.HEALTHY else "a remark",
    )


def _unreachable(record: KeyRecord) -> Iterator[str]:
    state = record.unreachable
    if state is not None:
        then = "no follow-up is scheduled"
        if state.next_check is not None:
            late = ", which is late" if state.next_check <= record.checked_at else ""
            then = f"next check at {_when(state.next_check)}{late}"
        yield f"Unreachable since {_when(state.since)}, {state.rechecks} checks ago; {then}."


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M %Z}"


def _one_line(command: str) -> str:
    # backticks stay: only at the beginning of a line could they end the block of code
    return " ".join(command.split())


def onboarding_record(
    facts: LiveFacts,
    *,
    users_before: Sequence[str],
    decrypters: Sequence[str] | None,
    run_id: str,
    now: datetime,
) -> KeyRecord:
    """The first record of a key, which later checks compare with.

    Args:
        facts: Read after the approval, right before the attach.
        users_before: Members who could already decrypt with an adopted key.
        decrypters: `other_decrypters` of the approved plan; None when there is no plan.
        run_id: The onboarding run.
        now: The time of the attach.
    """
    baseline = Baseline.of(
        facts.key,
        source="onboarding",
        now=now,
        decrypters=tuple(users_before),
        # with another workspace they may have data of that one
        unusable_versions=()
        if facts.other_workspaces
        else tuple(v.id for v in facts.versions if v.state in UNUSABLE),
    )
    if decrypters is not None:
        baseline = baseline.model_copy(update={"approved_decrypters": tuple(decrypters)})
    return KeyRecord(
        external_key_id=facts.external_key_id,
        key_name=facts.key.name,
        workspaces=(f"{facts.workspace_name} ({facts.workspace_id})",),
        verdict=Health.HEALTHY,
        since=now,
        checked_at=now,
        depth="full",
        run_id=run_id,
        reasons=(),
        announced=Health.HEALTHY,
        announced_before=Health.HEALTHY,
        announced_at=now,
        baseline=baseline,
    )
