"""What attaching a key means for a workspace: told to the approver in every plan.

Source: https://platform.claude.com/docs/en/manage-claude/cmek and
…/cmek-coverage-claude-platform, …/cmek-key-lifecycle
"""

from typing import Final

CANNOT_BE_UNDONE: Final = (
    "The key of this workspace can never be removed or replaced.",
    "Data sealed under a destroyed key or version is lost for good: nobody keeps a copy.",
    "Every version must stay enabled after a rotation: stored data is never re-encrypted.",
    "The workspace must retain data, and its retention setting is locked from then on.",
)

CREATED_FOR_GOOD: Final = (
    "A workspace can never be deleted, only archived; where it lives can't be changed.",
)
"""Of a new workspace, besides."""

STOPS_WORKING: Final = (
    "Console Playground is off in this workspace.",
    "Structured outputs are off for some models.",
    "Organization webhooks are off when the default workspace has a key.",
)

TAKES_EFFECT: Final = (
    "A new workspace is covered from its first request; one in use may take up to a day.",
    "Data stored before that stays under Anthropic's own keys.",
)
