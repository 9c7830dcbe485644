"""Which workspaces a discovery leaves out, and why; pure."""

from __future__ import annotations

from fnmatch import fnmatchcase

from cmek.admin_models import Workspace
from cmek.discovery.request import DiscoveryRequest

ONBOARD = "onboard"
NEVER = "never"
DEFAULT_NAME = "Default"
"""A list may show the default workspace; by the documentation nothing but its name tells it."""


def unfit(workspace: Workspace, request: DiscoveryRequest, *, is_default: bool) -> str | None:
    """Why the workspace gets no key by itself, whoever asks; None when it may."""
    if workspace.is_archived:
        return "archived"
    if workspace.external_key_id is not None:
        return "has a key"
    if is_default or workspace.name == DEFAULT_NAME:
        return "the default workspace, or can't be told from it; a person starts that one"
    if workspace.tags.get(request.opt_in_tag) == NEVER:
        return f"tagged {request.opt_in_tag}={NEVER}"
    return _excluded(workspace, request)


def not_wanted(workspace: Workspace, request: DiscoveryRequest) -> str | None:
    """Why nobody has opted in for the workspace; None when somebody has."""
    if request.opt_in == "all":
        return None
    if request.opt_in == "tag":
        wanted = workspace.tags.get(request.opt_in_tag) == ONBOARD
        return None if wanted else f"not tagged {request.opt_in_tag}={ONBOARD}"
    fits = any(fnmatchcase(workspace.name, one) for one in request.name_patterns)
    return None if fits else "its name fits no pattern"


def _excluded(workspace: Workspace, request: DiscoveryRequest) -> str | None:
    for pattern in request.exclude:
        if workspace.id == pattern or fnmatchcase(workspace.name, pattern):
            return f"excluded by {pattern!r}"
    return None
