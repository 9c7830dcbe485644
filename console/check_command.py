"""`cmek check`: the prerequisites in the terminal, straight from here."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.table import Table

from cmek.keys.verdicts import Check, CheckReport
from cmek.onboarding.reports import summary
from cmek.onboarding.request import OnboardingRequest
from console.onboard_command import (
    CreateWorkspace,
    WorkspaceId,
    build_request,
    one_workspace,
    parse_settings,
)
from console.terminal import new_console, printable
from tasks.clients import close_clients
from tasks.reads import check_prerequisites

STYLES = {"fail": "bold red", "unknown": "yellow", "warn": "yellow", "pass": "green"}


def check_command(  # noqa: PLR0913 - a parameter is an option of the command
    workspace_id: WorkspaceId = None,
    *,
    create_workspace: CreateWorkspace = None,
    project_id: Annotated[str, typer.Option("--project", help="Google Cloud project id.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another field of the request."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Checks that pass, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check everything that an onboarding needs, without one write; exit code 1 on a failure.

    Credentials come from the blocks of the configured Prefect server.
    """
    given = parse_settings(setting or []) | {
        **one_workspace(workspace_id, create_workspace),
        "project_id": project_id,
        "requested_by": "nobody@localhost",
    }
    report = asyncio.run(_check(OnboardingRequest.model_validate(build_request(given))))
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        console = new_console()
        console.print(_table([c for c in report.checks if everything or c.status != "pass"]))
        console.print(summary(report).replace("*", ""))
    if report.failed:
        raise typer.Exit(1)


async def _check(request: OnboardingRequest) -> CheckReport:
    try:
        # without a flow run around it, the task's function is called as it is
        return await check_prerequisites.fn(request)
    finally:
        await close_clients()


def _table(checks: list[Check]) -> Table:
    table = Table("", "check", "found", "what to do", show_lines=True)
    order = list(STYLES)
    for check in sorted(checks, key=lambda one: order.index(one.status)):
        who = f"who can tell: {check.who_can_tell}" if check.who_can_tell else None
        table.add_row(
            f"[{STYLES[check.status]}]{check.status}[/]",
            printable(check.title),
            printable(check.evidence),
            printable("\n".join(filter(None, (check.remedy, who)))),
        )
    return table
