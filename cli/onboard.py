"""`cmek onboard`: start an onboarding. `cmek check`: its prerequisites, without a run."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import typer
from prefect import get_client
from pydantic import ValidationError
from rich.table import Table

from cli.client import RunError, calling, connected, run_url
from cli.terminal import new_console, printable
from cmek.keys.verdicts import Check, CheckReport
from cmek.models import refusals
from cmek.onboarding.reports import summary
from cmek.onboarding.request import OnboardingRequest
from tasks.clients import close_clients
from tasks.discovery import start_onboarding
from tasks.reads import check_prerequisites

_OWN_OPTIONS: Final = {"workspace_id", "create_workspace", "project_id", "requested_by"}
_FIELDS: Final = ", ".join(n for n in OnboardingRequest.model_fields if n not in _OWN_OPTIONS)

WorkspaceId = Annotated[str | None, typer.Argument(help="The workspace, wrkspc_….")]
CreateWorkspace = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Instead of an id: make a new workspace, with the key from the start."
    ),
]
Project = Annotated[str, typer.Option("--project", help="Google Cloud project id.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help=f"Another field of the request: {_FIELDS}; repeatable."
    ),
]


def onboard_command(  # noqa: PLR0913 - a parameter is an option of the command
    workspace_id: WorkspaceId = None,
    *,
    create_workspace: CreateWorkspace = None,
    project_id: Project,
    requested_by: Annotated[str, typer.Option(help="Your e-mail address.")],
    setting: Settings = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="The same key gives the same run. Without one, a workspace's run that is under "
            "way is given instead of a second one."
        ),
    ] = None,
) -> None:
    """Start onboarding a workspace; the run waits for approval before the last step.

    The server is Prefect's: PREFECT_API_URL, or the active profile.
    """
    console = new_console()
    request = build_request(
        parse_settings(setting or [])
        | _one_workspace(workspace_id, create_workspace)
        | {"project_id": project_id, "requested_by": requested_by}
    )
    with connected() as client:
        run = calling(
            get_client(),
            lambda api: start_onboarding(api, request, idempotency_key=idempotency_key),
        )
        console.print(f"Run [bold]{printable(run.name)}[/] ({run.id})")
        console.print(run_url(client, run.id), soft_wrap=True)
        console.print(f"When it waits: cmek approve {run.id}", soft_wrap=True)


def _one_workspace(workspace_id: str | None, create_workspace: str | None) -> dict[str, str]:
    given = {"workspace_id": workspace_id, "create_workspace": create_workspace}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise RunError("give either a workspace's id, or --create-workspace with a new name")
    return named


def parse_settings(settings: list[str]) -> dict[str, str | None]:
    """Read `NAME=VALUE` pairs; an empty value means none.

    Raises:
        RunError: a pair without `=`, or a name that the request does not have.
    """
    given: dict[str, str | None] = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator:
            raise RunError(f"--set {setting!r}: expected NAME=VALUE")
        if name not in OnboardingRequest.model_fields:
            known = ", ".join(OnboardingRequest.model_fields)
            raise RunError(f"--set {name}: the request has no such field; it has {known}")
        given[name] = value or None
    return given


def build_request(given: dict[str, Any]) -> dict[str, Any]:
    """Check the request here, for an error that names the field; JSON of the given fields only.

    Raises:
        RunError: names each wrong field, its value and the rule.
    """
    try:
        request = OnboardingRequest.model_validate(given)
    except ValidationError as error:
        raise RunError(f"the request is not valid: {'; '.join(refusals(error))}") from None
    return request.model_dump(mode="json", include=set(given))


_STYLES: Final = {"fail": "bold red", "unknown": "yellow", "warn": "yellow", "pass": "green"}


def check_command(  # noqa: PLR0913 - a parameter is an option of the command
    workspace_id: WorkspaceId = None,
    *,
    create_workspace: CreateWorkspace = None,
    project_id: Project,
    setting: Settings = None,
    everything: Annotated[bool, typer.Option("--all", help="Checks that pass, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check all that an onboarding needs, without one write; exit code 1 on a failure.

    Credentials come from the blocks of the configured Prefect server.
    """
    request = build_request(
        parse_settings(setting or [])
        | _one_workspace(workspace_id, create_workspace)
        | {"project_id": project_id, "requested_by": "nobody@localhost"}
    )
    report = asyncio.run(_check(OnboardingRequest.model_validate(request)))
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
    order = list(_STYLES)
    for check in sorted(checks, key=lambda one: order.index(one.status)):
        who = f"who can tell: {check.who_can_tell}" if check.who_can_tell else None
        table.add_row(
            f"[{_STYLES[check.status]}]{check.status}[/]",
            printable(check.title),
            printable(check.evidence),
            printable("\n".join(filter(None, (check.remedy, who)))),
        )
    return table
