"""A workspace that an onboarding creates with its key in the create call: born encrypted. Pure.

Source: https://platform.claude.com/docs/en/manage-claude/workspaces and …/cmek (a key that is set
when the workspace is created covers it from its first request on).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final, Literal

from cmek.admin_models import Workspace
from cmek.names import folded, short_hash, slug
from cmek.tags import CREATED_BY_TAG

MAX_NAME: Final = 255
NAME: Final = r"^[^\s`|<]+( [^\s`|<]+)*$"
"""What an approver can read off a plan and type; `check_name` says what a schema can't."""
USUAL_LIMIT: Final = 100
"""Live workspaces that an organization may have, unless Anthropic raised that."""

Residency = Literal["unrestricted", "us_default", "us_only"]

_INFERENCE: Final[dict[Residency, dict[str, object]]] = {
    "unrestricted": {
        "allowed_inference_geos": "unrestricted",
        "default_inference_geo": "global",
    },
    "us_default": {"allowed_inference_geos": "unrestricted", "default_inference_geo": "us"},
    "us_only": {"allowed_inference_geos": ["us"], "default_inference_geo": "us"},
}


def check_name(name: str) -> str:
    """The name, when people can type what they see.

    Raises:
        ValueError: Invisible characters, or another Unicode form of the same characters.
    """
    if not name.isprintable():
        raise ValueError("has characters that can't be seen")
    if unicodedata.normalize("NFC", name) != name:
        raise ValueError("must be in Unicode form NFC: type it, instead of pasting it")
    return name


def key_id_for(name: str) -> str:
    """The id of the new workspace's own crypto key: readable, and apart for each name."""
    readable = slug(name.lower(), 48).rstrip("-") or "workspace"
    return f"{readable}-{short_hash(name)}"


def data_residency(residency: Residency) -> dict[str, object]:
    """The Admin API's object; `workspace_geo` knows only one value and can never change."""
    return {"workspace_geo": "us"} | _INFERENCE[residency]


def born_of(workspaces: Iterable[Workspace], run_id: str) -> tuple[Workspace, ...]:
    """Those that this run created, archived or renamed since or not."""
    return tuple(one for one in workspaces if one.tags.get(CREATED_BY_TAG) == run_id)


def namesakes(workspaces: Iterable[Workspace], name: str) -> tuple[Workspace, ...]:
    """Live workspaces of this name, or of one that looks like it.

    An archived one does not count: it can't be mixed up with the new one in use.
    """
    wanted = folded(name)
    return tuple(one for one in workspaces if not one.is_archived and folded(one.name) == wanted)


def named(workspaces: Iterable[Workspace]) -> str:
    """Ids and names for a message."""
    return ", ".join(f"{one.id} ({one.name})" for one in workspaces)
