"""How our flows end: the names of their runs' final states, which people and programs read."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class RunOutcome(StrEnum):
    """Every name that a flow of ours gives; `Failed`, `Crashed` and the others are Prefect's."""

    ATTACHED = "Attached"
    ALREADY_ATTACHED = "Already attached"
    REJECTED = "Rejected"
    DUPLICATE = "Duplicate"
    """Another run has the workspace."""
    PLANNED = "Planned"
    PREREQUISITES_FAIL = "Prerequisites fail"
    CHECKED = "Checked"
    KEY_UNKNOWN = "Unknown"
    """Of a revalidation: no key is broken, and one at least has no verdict."""
    KEY_AT_RISK = "At risk"
    SKIPPED = "Skipped"
    """Of a revalidation: another one checked all keys all the while."""
    NOT_SET_UP = "Not set up"
    STARTED = "Started"
    NOTHING_TO_START = "Nothing to start"
    LEFT_ALONE = "Left alone"
    MARKED_AS_CRASHED = "Marked as crashed"


HAS_ITS_KEY: Final = frozenset({RunOutcome.ATTACHED, RunOutcome.ALREADY_ATTACHED})
"""The ends at which the workspace has its key."""
CAME_TO_NOTHING: Final = frozenset(
    {RunOutcome.DUPLICATE, RunOutcome.PLANNED, RunOutcome.PREREQUISITES_FAIL}
)
"""Ends of runs that did not try to onboard."""
