"""`cmek onboard`: start an onboarding. `cmek check`: its prerequisites, without a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from pydantic import ValidationError
from rich.console import Console

from cli.approve import Steps
from cli.client import WAITING, RunError, calling, connected, run_facts, run_url
from cli.options import JsonObject
from cli.terminal import STATUS_STYLES, new_console, printable, show_rows
from cmek.errors import CmekError
from cmek.keys.rules_project import PROJECT
from cmek.keys.verdicts import Check, CheckReport
from cmek.models import refusals
from cmek.onboarding.eligibility import WorkspaceNotEligibleError, check_eligibility
from cmek.onboarding.policy import (
    DEFAULT_POLICY,
    SETTINGS,
    OnboardingSettings,
    OverrideRefusedError,
    UnnameableKeyError,
)
from cmek.onboarding.reports import summary
from cmek.onboarding.request import OnboardingForm, OnboardingRequest
from cmek.outcomes import HAS_ITS_KEY, RunOutcome
from tasks.clients import BlockMissingError, close_clients
from tasks.discovery import start_onboarding
from tasks.reads import (
    WorkspaceNotFoundError,
    check_prerequisites,
    read_workspace,
    resolve_request,
)

_READ_SECONDS: Final = 15.0
"""How long to try to read the workspace here; after that, only the run reads it."""
_FOLLOW_SECONDS: Final = 600.0
_DONE: Final = HAS_ITS_KEY | {RunOutcome.PLANNED}
_REFUSALS: Final = (
    BlockMissingError,
    OverrideRefusedError,
    UnnameableKeyError,
    WorkspaceNotEligibleError,
    WorkspaceNotFoundError,
)
"""Refusals that the run would give as well, on any machine."""

Workspace = Annotated[
    str | None, typer.Argument(metavar="WORKSPACE", help="The workspace, wrkspc_….")
]
CreateWorkspace = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Instead of an id: make a new workspace, with the key from the start."
    ),
]
Project = Annotated[str, typer.Option("--project", help="Google Cloud project id.")]
Policy = Annotated[
    str, typer.Option("--policy", help="The OnboardingPolicy block that decides everything else.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help=f"Override a setting, where the policy allows it: {', '.join(SETTINGS)}; repeatable.",
    ),
]


def onboard_command(  # noqa: PLR0913 - a parameter is an option of the command
    workspace: Workspace = None,
    *,
    create_workspace: CreateWorkspace = None,
    project_id: Project,
    requested_by: Annotated[str, typer.Option(help="Your e-mail address.")],
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Show what would be done, without one write.")
    ] = False,
    adopt_existing_key: Annotated[
        bool,
        typer.Option("--adopt-existing-key", help="Allow label and grants on a key that exists."),
    ] = False,
    policy: Policy = DEFAULT_POLICY,
    overrides: Overrides = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="The same key gives the same run. Without one, a workspace's run that is under "
            "way is given instead of a second one."
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the run has ended, or waits for an approval.")
    ] = False,
    as_json: JsonObject = False,
) -> None:
    """Start onboarding a workspace; the run waits for approval before the last step.

    The server is Prefect's: PREFECT_API_URL, or the active profile. Exit codes: 0 the run was
    started, or with --wait has ended well; 1 refused or failed; 2 wrong usage; 3 with --wait, the
    run waits for an approval.
    """
    if idempotency_key is not None and not idempotency_key.strip():
        raise RunError("--idempotency-key is empty: leave it out, or give a text of your own")
    form = build_form(
        _workspace(workspace, create_workspace)
        | {"project_id": project_id, "requested_by": requested_by, "policy": policy}
        | {"plan_only": plan_only, "adopt_existing_key": adopt_existing_key},
        overrides or [],
    )
    with connected() as client:
        unchecked = asyncio.run(refuse_early(form))
        request = form.model_dump(mode="json", exclude_defaults=True)
        run = calling(
            get_client(),
            lambda api: start_onboarding(api, request, idempotency_key=idempotency_key),
        )
        console = new_console(stderr=as_json)
        _say_started(console, run, run_url(client, run.id), unchecked)
        if wait:
            run = Steps(client, run.id, console).follow(seconds=_FOLLOW_SECONDS)
    waits = run.state is not None and run.state.is_paused()
    if as_json:
        asked = {"workspace": form.subject, "policy": form.policy, "not_checked": unchecked}
        typer.echo(json.dumps(run_facts(client, run) | asked))
    if wait and run.state is not None:
        ended = f"[bold]{printable(run.state.name)}[/] {printable(run.state.message or '')}"
        console.print(ended, soft_wrap=True)
    if waits or not wait:
        console.print(f"When it waits: cmek approve {run.id}", soft_wrap=True)
    raise typer.Exit(_exit_code(run, waits=waits) if wait else 0)


def _say_started(console: Console, run: FlowRun, url: str, unchecked: str | None) -> None:
    console.print(f"Run [bold]{printable(run.name)}[/] ({run.id})", soft_wrap=True)
    console.print(url, soft_wrap=True)
    if unchecked:
        console.print(printable(unchecked), soft_wrap=True)


def _exit_code(run: FlowRun, *, waits: bool) -> int:
    if waits:
        return WAITING
    return 0 if run.state is not None and run.state.name in _DONE else 1


def _workspace(workspace: str | None, create_workspace: str | None) -> dict[str, Any]:
    if (workspace is None) is (create_workspace is None):
        raise typer.BadParameter(
            "give either a workspace's id, or --create-workspace with a new name"
        )
    given = create_workspace if workspace is None else workspace
    return {"workspace": given, "new_workspace": workspace is None}


def build_form(given: dict[str, Any], overrides: list[str]) -> OnboardingForm:
    """The form of these fields, and of overrides as `NAME=VALUE`; an empty value means none.

    Raises:
        BadParameter: A pair without `=`.
        RunError: Names each wrong field, its value and what is wanted.
    """
    try:
        settings = OnboardingSettings.model_validate(dict(_pair(one) for one in overrides))
        changed = settings.model_dump(mode="json", exclude_unset=True)
        return OnboardingForm.model_validate(given | {"overrides": changed})
    except ValidationError as error:
        wrong = "; ".join(map(_as_option, refusals(error)))
        raise RunError(f"the request is not valid: {wrong}") from None


def _as_option(refusal: str) -> str:
    """The refusal by the option's name, where a field is one."""
    field, colon, why = refusal.partition(":")
    option = {"project_id": "--project", "requested_by": "--requested-by"}.get(field, field)
    return f"{option}{colon}{why}"


def _pair(override: str) -> tuple[str, object]:
    name, separator, value = override.partition("=")
    if not separator:
        raise typer.BadParameter(f"--set {override!r}: expected NAME=VALUE")
    if name not in SETTINGS:
        raise typer.BadParameter(
            f"--set {name}: there is no such setting; a policy has {', '.join(SETTINGS)}"
        )
    return name, [one for one in value.split(",") if one] if name == "accepted_warnings" else value


async def refuse_early(form: OnboardingForm) -> str | None:
    """Refuse what can be refused before a run exists; returns what could not be checked here.

    Raises:
        BlockMissingError, OverrideRefusedError: The policy can't be read, or refuses an override.
        WorkspaceNotFoundError, WorkspaceNotEligibleError: The workspace must not be onboarded.
    """
    try:
        async with asyncio.timeout(_READ_SECONDS):
            request = await resolve_request.fn(form)
            if request.workspace_id is not None:
                await _check_workspace(request, request.workspace_id)
    except _REFUSALS:
        raise
    except (CmekError, TimeoutError) as error:
        # this machine may have neither the worker's network nor its credentials
        why = str(error) or f"no answer within {_READ_SECONDS:.0f} s"
        return f"The run itself reads workspace {form.workspace}; here it could not be read: {why}"
    finally:
        await close_clients()
    return None


async def _check_workspace(request: OnboardingRequest, workspace_id: str) -> None:
    check_eligibility(request, await read_workspace.fn(request.anthropic_block, workspace_id))


def check_command(  # noqa: PLR0913 - a parameter is an option of the command
    workspace: Workspace = None,
    *,
    create_workspace: CreateWorkspace = None,
    project_id: Project,
    policy: Policy = DEFAULT_POLICY,
    overrides: Overrides = None,
    everything: Annotated[bool, typer.Option("--all", help="Checks that pass, too.")] = False,
    as_json: JsonObject = False,
) -> None:
    """Check all that an onboarding needs, without one write; exit code 1 on a failure.

    Also when the project itself could not be read: it may not exist. Credentials come from the
    blocks of the configured Prefect server.
    """
    form = build_form(
        _workspace(workspace, create_workspace)
        | {"project_id": project_id, "requested_by": "nobody@localhost", "policy": policy},
        overrides or [],
    )
    with connected():
        report = asyncio.run(_check(form))
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        console = new_console()
        shown = [one for one in report.checks if everything or one.status != "pass"]
        show_rows(console, _CHECK_TITLES, _rows(shown))
        console.print(summary(report).replace("*", ""), soft_wrap=True)
    unread = any(one.id == PROJECT.id for one in report.unknown)
    if unread:
        said = (
            f"Whether project {printable(project_id)} exists could not be read: is it the right id?"
        )
        new_console(stderr=True).print(said, soft_wrap=True)
    if report.failed or unread:
        raise typer.Exit(1)


async def _check(form: OnboardingForm) -> CheckReport:
    try:
        # `.fn`: there is no flow run, so the plain functions are called, not Prefect's tasks
        return await check_prerequisites.fn(await resolve_request.fn(form))
    finally:
        await close_clients()


_CHECK_TITLES: Final = ("", "check", "found", "what to do", "who can tell")


def _rows(checks: list[Check]) -> Iterator[tuple[str, ...]]:
    order = list(STATUS_STYLES)
    for check in sorted(checks, key=lambda one: order.index(one.status)):
        remedy = check.remedy or ""
        # the text of a refused call ends with the same advice
        found = check.evidence.removesuffix(remedy).rstrip() or check.evidence
        texts = (check.title, found, remedy, check.who_can_tell or "")
        yield (f"[{STATUS_STYLES[check.status]}]{check.status}[/]", *map(printable, texts))
