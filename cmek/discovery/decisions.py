"""What a discovery has decided, and how that reads; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from uuid import UUID

from cmek.markdown import code, escape, table
from cmek.models import FrozenModel


class Course(StrEnum):
    """What was done about a workspace."""

    STARTED = "started"
    FAILED = "could not be started"
    LATER = "next time"
    LEFT_OUT = "left out"


class Decision(FrozenModel):
    """About one workspace."""

    workspace_id: str
    workspace_name: str
    course: Course
    why: str
    run_id: UUID | None = None


def summary(decisions: Sequence[Decision]) -> str:
    """`2 started, 5 left out`; without what there is none of."""
    found = Counter(one.course for one in decisions)
    parts = [f"{found[course]} {course}" for course in Course if found[course]]
    return ", ".join(parts) or "no workspace"


def page(decisions: Sequence[Decision]) -> str:
    """The artifact: what matters most first."""
    order = list(Course)
    rows = [
        (
            escape(one.workspace_name),
            code(one.workspace_id),
            one.course,
            f"[run](/runs/flow-run/{one.run_id})" if one.run_id else "",
            escape(one.why),
        )
        for one in sorted(decisions, key=lambda one: order.index(one.course))
    ]
    head = ("workspace", "id", "onboarding", "run", "why")
    return f"# Discovery\n\n{summary(decisions)}.\n\n{table(head, rows)}\n"
