"""All tags: of Prefect's runs and deployments, and of Anthropic's workspaces.

Never change a value: suspended runs already have these tags, and would not be found any more.
"""

from __future__ import annotations

from typing import Final

CMEK_TAG: Final = "cmek"
"""On all our deployments (`prefect.yaml`) and on the runs that we start."""
LOOK_AGAIN_TAG: Final = "look-again"
"""On a follow-up revalidation of keys that could not be reached before."""
LEFTOVERS: Final = "cmek-leftovers"
"""Key of the artifact that holds the table of all leftovers."""
WAITING_TAG: Final = "waiting-for-approval"
"""On an onboarding run that is suspended for an approval."""
CREATE_SENT_PREFIX: Final = "cmek-create-sent:"
"""On a run, followed by the time (ISO 8601) at which it sent the creation of a workspace."""

CREATED_INCOMPLETE_PREFIX: Final = "cmek-created-incomplete:"
"""On a run, followed by the id of a workspace that it created, but not with all that it asked."""

CREATED_BY_TAG: Final = "cmek-run"
"""On a workspace: the id of the run that created it; finds it again after a lost response."""
EVIDENCE_TAG: Final = "cmek-evidence"
"""On a workspace: the hash of the `attached` entry."""
OPT_IN_TAG: Final = "cmek"
"""On a workspace: whether it shall get a key; a discovery can name another tag."""


def workspace_tag(subject: str) -> str:
    """On every onboarding run for the workspace; `subject` is the request's."""
    return f"workspace:{subject}"


def claim_tag(subject: str) -> str:
    """On the one run that has claimed the workspace; ignored once that run has ended."""
    return f"cmek-claim:{subject}"
