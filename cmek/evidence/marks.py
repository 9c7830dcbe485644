"""Marks left outside: who depends on a key, and which record proves how that came about.

Google's usage tracking can't see Anthropic, so an essential key looks unused there.
"""

from __future__ import annotations

from collections.abc import Mapping

from cmek.names import short_hash
from cmek.tags import EVIDENCE_TAG


def in_use_label(workspace_id: str) -> tuple[str, str]:
    """The label that marks a key as used by a workspace, as (key, value).

    A label holds lower case only and workspace ids differ in case, hence the hash.
    """
    return f"cmek-workspace-{short_hash(workspace_id, 12)}", "attached"


def with_evidence_tag(tags: Mapping[str, str], entry_hash: str) -> dict[str, str] | None:
    """All tags and ours, None when the workspace has one already: it is written once.

    The others go along, since it is not documented whether an update replaces them.
    """
    if EVIDENCE_TAG in tags:
        return None
    return dict(tags) | {EVIDENCE_TAG: entry_hash}
