"""The options and arguments that several commands have, checked before a command does anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from cmek.models import rule_of
from cmek.names import BlockName, ProjectId, WorkspaceId


def checked(kind: Any) -> Callable[[str | None], str | None]:  # noqa: ANN401 - an annotated type
    """The callback of an option whose value must fit the rule of an `Annotated[str, TextRule(…)]`.

    The callback raises BadParameter, which says value, flaw and what is wanted.
    """
    rule = rule_of(kind)

    def check(value: str | None) -> str | None:
        if value is not None and not rule.fits(value):
            raise typer.BadParameter(rule.refusal(value))
        return value

    return check


check_workspace = checked(WorkspaceId)
check_project = checked(ProjectId)
check_block = checked(BlockName)

WorkspaceArgument = Annotated[
    str,
    typer.Argument(metavar="WORKSPACE", help="The workspace, wrkspc_….", callback=check_workspace),
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
