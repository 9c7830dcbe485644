"""The options and arguments that several commands have, checked before a command does anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

import typer

from cmek.models import TextRule, rule_of
from cmek.names import WORKSPACE_ID, WORKSPACE_NAME, BlockName, ProjectId, WorkspaceId


def checked(rule: TextRule) -> Callable[[str | None], str | None]:
    """The callback of an option whose value must fit the rule.

    The callback raises BadParameter, which names the value, what is wrong and what is expected.
    """

    def check(value: str | None) -> str | None:
        if value is not None and not rule.fits(value):
            raise typer.BadParameter(rule.refusal(value))
        return value

    return check


check_workspace = checked(rule_of(WorkspaceId))
check_project = checked(rule_of(ProjectId))
check_block = checked(rule_of(BlockName))
_SUBJECT: Final = TextRule(
    f"{WORKSPACE_ID}|new:(?:{WORKSPACE_NAME})",
    "a workspace's id, such as wrkspc_01HxPv6KsDq9TnBzMw3YfLrE, or new:NAME of one that an "
    "onboarding was to create",
)

Subject = Annotated[
    str,
    typer.Argument(
        metavar="WORKSPACE",
        help="The workspace, wrkspc_…, or new:NAME of one that was to be created.",
        callback=checked(_SUBJECT),
    ),
]
AnthropicBlock = Annotated[
    str | None,
    typer.Option(help="Name of the AnthropicAdmin block; else the policy's.", callback=check_block),
]
KmsBlock = Annotated[
    str | None,
    typer.Option(help="Name of the GoogleKms block; else the policy's.", callback=check_block),
]
PolicyBlock = Annotated[
    str, typer.Option(help="Name of the OnboardingPolicy block.", callback=check_block)
]
JsonObject = Annotated[bool, typer.Option("--json", help="One JSON object.")]
JsonObjectOnly = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output; the rest on error.")
]
JsonArray = Annotated[bool, typer.Option("--json", help="One JSON array.")]
