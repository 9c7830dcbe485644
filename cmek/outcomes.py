"""How our flows end: the names of their final states, for people and programs."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class RunOutcome(StrEnum):
    """The names that our flows give; `Failed`, `Crashed` and all others are Prefect's own."""

    ATTACHED = "Attached"
    ALREADY_ATTACHED = "Already attached"
    REJECTED = "Rejected"
    DUPLICATE = "Duplicate"
    """Another run is onboarding the workspace."""
    PLANNED = "Planned"
    PREREQUISITES_FAIL = "Prerequisites fail"
    CHECKED = "Checked"
    KEY_UNKNOWN = "Unknown"
    """Of a revalidation: no key is broken, and at least one key has no verdict."""
    KEY_AT_RISK = "At risk"
    SKIPPED = "Skipped"
    """Of a revalidation: another one checked all keys the whole time, or a newer one is due."""
    NOT_SET_UP = "Not set up"
    STARTED = "Started"
    NOTHING_TO_START = "Nothing to start"
    LEFT_ALONE = "Left alone"
    MARKED_AS_CRASHED = "Marked as crashed"


HAS_ITS_KEY: Final = frozenset({RunOutcome.ATTACHED, RunOutcome.ALREADY_ATTACHED})
"""Outcomes after which the workspace has its key."""
CAME_TO_NOTHING: Final = frozenset(
    {RunOutcome.DUPLICATE, RunOutcome.PLANNED, RunOutcome.PREREQUISITES_FAIL}
)
"""Outcomes of runs that did not try to onboard."""
