"""Which workspaces are onboarded automatically, with which key, and when not again. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from cmek.anthropic.models import Workspace
from cmek.discovery.request import Announcement, DiscoveryRequest
from cmek.models import FrozenModel
from cmek.onboarding.request import OnboardingForm
from cmek.outcomes import CAME_TO_NOTHING, RunOutcome
from cmek.plain_text import code, escape, table

ONBOARD = "onboard"
NEVER = "never"


def ineligible_reason(
    workspace: Workspace, request: DiscoveryRequest, *, is_default: bool
) -> str | None:
    """Why the workspace is never onboarded automatically, even if tagged; None when it may be."""
    if workspace.is_archived:
        return "archived"
    if workspace.external_key_id is not None:
        return "has a key"
    if is_default or workspace.is_named_default:
        return "the default workspace, or can't be told from it; a person starts that one"
    if workspace.tags.get(request.opt_in_tag) == NEVER:
        return f"tagged {request.opt_in_tag}={NEVER}"
    for pattern in request.exclude:
        if workspace.id == pattern or _fits(workspace.name, pattern):
            return f"excluded by {pattern!r}"
    return None


def opt_in_missing_reason(workspace: Workspace, request: DiscoveryRequest) -> str | None:
    """Why the workspace has not opted in; None when it has."""
    if request.opt_in == "all":
        return None
    if request.opt_in == "tag":
        wanted = workspace.tags.get(request.opt_in_tag) == ONBOARD
        return None if wanted else f"not tagged {request.opt_in_tag}={ONBOARD}"
    fits = any(_fits(workspace.name, one) for one in request.name_patterns)
    return None if fits else "its name fits no pattern"


def _fits(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern with `*` and `?`; a bracket stands for itself."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def onboarding_for(
    workspace: Workspace, request: DiscoveryRequest, announced: Announcement | None = None
) -> OnboardingForm:
    """The onboarding request for this workspace.

    Args:
        workspace: A workspace without a key.
        request: The discovery's request.
        announced: The event for this workspace, if any; its values override the discovery's.

    Raises:
        ValidationError: An override in the event is not valid.
    """
    given = announced or Announcement(workspace_id=workspace.id)
    return OnboardingForm(
        workspace=workspace.id,
        project_id=given.project_id or request.project_id,
        requested_by=given.requested_by or request.requested_by,
        policy=request.policy,
        overrides=given.overrides,
    )


class Action(StrEnum):
    """What was done about a workspace."""

    STARTED = "started"
    FAILED = "could not be started"
    LATER = "next time"
    LEFT_OUT = "left out"


class DiscoveryDecision(FrozenModel):
    """What a discovery did about one workspace, and why."""

    workspace_id: str
    workspace_name: str
    action: Action
    why: str
    run_id: UUID | None = None


def summary(decisions: Sequence[DiscoveryDecision]) -> str:
    """Counts such as `2 started, 5 left out`, without zeros."""
    found = Counter(one.action for one in decisions)
    parts = [f"{found[action]} {action}" for action in Action if found[action]]
    return ", ".join(parts) or "no workspace"


def page(decisions: Sequence[DiscoveryDecision]) -> str:
    """The artifact in Markdown; what was started or failed comes first."""
    order = list(Action)
    rows = [
        (
            escape(one.workspace_name),
            code(one.workspace_id),
            one.action,
            f"[run](/runs/flow-run/{one.run_id})" if one.run_id else "",
            escape(one.why),
        )
        for one in sorted(decisions, key=lambda one: order.index(one.action))
    ]
    head = ("workspace", "id", "onboarding", "run", "why")
    return f"# Discovery\n\n{summary(decisions)}.\n\n{table(head, rows)}\n"


class EarlierRun(FrozenModel):
    """An earlier run of the onboarding flow for the workspace."""

    id: UUID
    name: str
    state: str
    """The state's name, such as `Suspended` or `Rejected`."""
    finished: bool
    completed: bool
    ended_at: datetime | None = None

    def __str__(self) -> str:
        return f"run {self.name} ({self.id})"


def finished_run_count(runs: Sequence[EarlierRun]) -> int:
    """The `number` for an idempotency key: it grows by one with each run that ends."""
    return sum(1 for run in runs if run.finished)


def idempotency_key(workspace_id: str, number: int) -> str:
    """The key under which Prefect creates only one run: a repeated call returns the same run.

    After that run has ended, `number` is another one, so a new run is possible.
    """
    return f"onboard:{workspace_id}:{number}"


def blocking_run(
    runs: Sequence[EarlierRun], *, now: datetime, try_again_after: timedelta
) -> str | None:
    """Why discoveries and events may not start another run now; None when they may.

    A person always may.
    """
    # a rejection first: it holds for ever, whatever happened since
    for run in runs:
        if run.finished and run.completed and run.state == RunOutcome.REJECTED:
            return f"a person rejected {run}; only a person starts another"
    for run in runs:
        if not run.finished:
            return f"{run} is {run.state}"
    for run in runs:
        if run.completed and run.state not in CAME_TO_NOTHING:
            return f"{run} ended as {run.state}"
    for run in runs:
        due = (run.ended_at or now) + try_again_after
        if not run.completed and due > now:
            return f"{run} ended as {run.state}; not again before {due:%Y-%m-%d %H:%M} UTC"
    return None


def complete(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with all defaults, as JSON; an invalid one is returned unchanged."""
    try:
        return OnboardingForm.model_validate(request).model_dump(mode="json")
    except ValidationError:
        return dict(request)


def request_differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields in which an existing run differs from the request: `name: found instead of wanted`.

    With an idempotency key Prefect returns the existing run, whatever the second call requests.
    """
    return tuple(
        f"{name}: {found.get(name)!r} instead of {value!r}"
        for name, value in wanted.items()
        if found.get(name) != value
    )
