"""Onboardings that create their workspace."""

from __future__ import annotations

from typing import Any

from sandbox.admin.state import StoredWorkspace
from tests.support.onboarding import Onboardings, Run

NAME = "Payments (EU) - live"


def born(bench: Onboardings, name: str = NAME) -> list[StoredWorkspace]:
    """All workspaces with this name."""
    return [one for one in bench.sandbox.world.admin.workspaces.values() if one.name == name]


def start_to_create(bench: Onboardings, name: str = NAME, **request: Any) -> Run:
    """A run for a new workspace, which has not been executed yet."""
    return bench.start(workspace_id=None, create_workspace=name, **request)


def asked_to_create(bench: Onboardings, name: str = NAME, **request: Any) -> Run:
    """A run that waits for the approval of a new workspace."""
    run = start_to_create(bench, name, **request).execute()
    assert run.state == "Suspended", f"{run.state}: {run.message}"
    return run


def creates(bench: Onboardings) -> list[dict[str, Any]]:
    """Every request that tried to create a workspace."""
    return bench.control.log(call="workspaces.create")
