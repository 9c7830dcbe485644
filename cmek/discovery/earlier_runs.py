"""What earlier onboardings of a workspace mean for another one; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from cmek.models import FrozenModel
from cmek.outcomes import CAME_TO_NOTHING, RunOutcome
from cmek.request import OnboardingRequest


class EarlierRun(FrozenModel):
    """A run of the onboarding flow for the workspace."""

    id: UUID
    name: str
    state: str
    """The state's name, such as `Suspended` or `Rejected`."""
    finished: bool
    completed: bool
    ended_at: datetime | None = None

    def __str__(self) -> str:
        return f"run {self.name} ({self.id})"


def epoch(runs: Sequence[EarlierRun]) -> int:
    """The number of earlier finished runs."""
    return sum(1 for run in runs if run.finished)


def idempotency_key(workspace_id: str, number: int) -> str:
    """A repeated call is the same run; a new one is possible once that has ended.

    Args:
        workspace_id: The workspace.
        number: Its epoch.
    """
    return f"onboard:{workspace_id}:{number}"


def objection(
    runs: Sequence[EarlierRun], *, now: datetime, try_again_after: timedelta
) -> str | None:
    """Why no machine starts another run now; None when it may.

    A person may always: these rules are for discoveries and events.
    """
    for run in runs:
        if run.finished and run.completed and run.state == RunOutcome.REJECTED:
            return f"a person rejected {run}; only a person starts another"
    for run in runs:
        if not run.finished:
            return f"{run} is {run.state}"
    for run in runs:
        if run.completed and run.state not in CAME_TO_NOTHING:
            return f"{run} ended as {run.state}"
    failed = [run for run in runs if not run.completed]
    for run in failed:
        due = (run.ended_at or now) + try_again_after
        if due > now:
            return f"{run} ended as {run.state}; not again before {due:%Y-%m-%d %H:%M} UTC"
    return None


def complete(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with its defaults, as JSON; what is no request stays as it is."""
    try:
        return OnboardingRequest.model_validate(request).model_dump(mode="json")
    except ValidationError:
        return dict(request)


def differences(asked: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields in which a run is not what was asked for, as `name: found instead of asked`.

    An idempotency key gives the run that it gave before, whatever the second call asks for.
    """
    return tuple(
        f"{name}: {found.get(name)!r} instead of {value!r}"
        for name, value in asked.items()
        if found.get(name) != value
    )
