"""What a discovery has decided, and how that reads; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from pydantic import ConfigDict

from cmek.markdown import code, escape, table
from cmek.models import FrozenModel

LIST_EVERY: Final = timedelta(hours=24)
"""The feed does not show that a tag was set, so the whole list is read once a day at least."""
FEED_DELAY: Final = timedelta(minutes=1)
"""How long an activity may take until it can be read."""
OVERLAP: Final = timedelta(minutes=10)
"""Read twice rather than not at all: clocks differ."""


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


class Cursor(FrozenModel):
    """How far the last discovery got."""

    model_config = ConfigDict(extra="ignore")

    listed_at: datetime
    """When all workspaces were listed last."""
    covered_until: datetime
    complete: bool
    """Whether nothing was put off."""

    def feed_suffices(self, now: datetime) -> bool:
        """Whether what is new since then is all that there is to look at."""
        return self.complete and self.covered_until <= now < self.listed_at + LIST_EVERY


def next_cursor(
    before: Cursor | None, decisions: Sequence[Decision], *, now: datetime, listed: bool
) -> Cursor:
    """Where the next discovery goes on."""
    put_off = {Course.LATER, Course.FAILED}
    return Cursor(
        listed_at=now if listed or before is None else before.listed_at,
        covered_until=now - FEED_DELAY,
        complete=not any(one.course in put_off for one in decisions),
    )


def summary(decisions: Sequence[Decision]) -> str:
    """`2 started, 5 left out`; without what there is none of."""
    found = Counter(one.course for one in decisions)
    parts = [f"{found[course]} {course}" for course in Course if found[course]]
    return ", ".join(parts) or "no workspace"


def page(decisions: Sequence[Decision], source: str) -> str:
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
    return f"# Discovery\n\nRead: {source}. {summary(decisions)}.\n\n{table(head, rows)}\n"
