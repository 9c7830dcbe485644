"""All tags, of Prefect's runs and deployments and of Anthropic's workspaces.

Their values are in records of runs that wait: a changed one is lost there.
"""

from __future__ import annotations

from typing import Final

CMEK_TAG: Final = "cmek"
"""Of every deployment of ours (`prefect.yaml` says so) and of the runs that we start."""
LOOK_AGAIN_TAG: Final = "look-again"
"""Of a revalidation of the keys that could not be reached before."""
LEFTOVERS: Final = "cmek-leftovers"
"""Key of the artifact that holds the table of all leftovers."""
WAITING_TAG: Final = "waiting-for-approval"
"""Of an onboarding run that is suspended for an approval."""
CREATE_SENT_PREFIX: Final = "cmek-create-sent:"
"""Of a run, followed by when it sent a create, in ISO 8601."""

CREATED_INCOMPLETE_PREFIX: Final = "cmek-created-incomplete:"
"""Of a run, followed by the id of the workspace that its create made, but did not complete."""

CREATED_BY_TAG: Final = "cmek-run"
"""Of a workspace: the id of the run that created it, by which it is found after a lost response."""
EVIDENCE_TAG: Final = "cmek-evidence"
"""Of a workspace: the hash of the `attached` entry."""
OPT_IN_TAG: Final = "cmek"
"""Of a workspace, unless a discovery names another one: whether it wants a key."""


def workspace_tag(subject: str) -> str:
    """Of every onboarding run for the workspace; `subject` is the request's."""
    return f"workspace:{subject}"


def claim_tag(subject: str) -> str:
    """Of the one run that has the workspace; it counts until the run has ended."""
    return f"cmek-claim:{subject}"
