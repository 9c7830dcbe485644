"""Checks and causes as Markdown tables that a person reads at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cmek.checks.model import Check, CheckReport
from cmek.markdown import code, escape, table

if TYPE_CHECKING:
    from cmek.diagnosis.model import Cause

SIGNS: Final = {"pass": "✅ pass", "warn": "⚠️ warn", "fail": "❌ **fail**", "unknown": "❓ unknown"}
VERDICTS: Final = {"proved": "❌ **proved**", "open": "❓ open", "excluded": "✅ excluded"}
_WORST_FIRST: Final = ("fail", "unknown", "warn", "pass")


def checks_table(report: CheckReport) -> str:
    """All checks, the worst first; outside text is disarmed."""
    ordered = sorted(report.checks, key=lambda one: _WORST_FIRST.index(one.status))
    rows = [[SIGNS[one.status], escape(one.title), escape(one.evidence), _next(one)]
            for one in ordered]  # fmt: skip
    return table(("", "Check", "Found", "What to do"), rows)


def checks_list(report: CheckReport) -> str:
    """What is not a pass, the worst first, a line each: one of Prefect's UIs cuts wide tables."""
    ordered = sorted(report.checks, key=lambda one: _WORST_FIRST.index(one.status))
    lines = (
        f"- {SIGNS[one.status]}: **{escape(one.title)}.** {escape(one.evidence)} {_next(one)}"
        for one in ordered
        if one.status != "pass"
    )
    return "\n".join(lines)


def summary(report: CheckReport) -> str:
    """One line: how many of each."""
    counts = {status: sum(one.status == status for one in report.checks) for status in _WORST_FIRST}
    return ", ".join(f"{SIGNS[status]} {count}" for status, count in counts.items() if count)


def causes_table(causes: tuple[Cause, ...]) -> str:
    """All causes in their order; outside text is disarmed."""
    rows = [
        [VERDICTS[one.verdict], escape(one.title), escape(one.why), code(one.command)]
        for one in causes
    ]
    return table(("", "Cause", "Why", "What to do"), rows)


def _next(check: Check) -> str:
    parts = [code(check.remedy)] if check.remedy else []
    parts += [f"who can tell: {escape(check.who_can_tell)}"] if check.who_can_tell else []
    return "; ".join(parts)
