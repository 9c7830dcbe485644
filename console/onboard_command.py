"""`cmek onboard`: start an onboarding on the configured Prefect server."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from prefect import get_client
from pydantic import ValidationError

from cmek.onboarding.request import OnboardingRequest
from console.prefect_client import calling, connected, run_url
from console.runs import RunError
from console.terminal import new_console, printable
from tasks.runs import start_onboarding

FIELDS_HELP: Final = "Fields for --set: " + ", ".join(
    name
    for name in OnboardingRequest.model_fields
    if name not in {"workspace_id", "create_workspace", "project_id", "requested_by"}
)


WorkspaceId = Annotated[str | None, typer.Argument(help="The workspace, wrkspc_….")]
CreateWorkspace = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Instead of an id: make a new workspace, with the key from the start."
    ),
]


def onboard_command(  # noqa: PLR0913 - a parameter is an option of the command
    workspace_id: WorkspaceId = None,
    *,
    create_workspace: CreateWorkspace = None,
    project_id: Annotated[str, typer.Option("--project", help="Google Cloud project id.")],
    requested_by: Annotated[str, typer.Option(help="Your e-mail address.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another field of the request."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="The same key gives the same run. Without one, a workspace's run that is under "
            "way is given instead of a second one."
        ),
    ] = None,
) -> None:
    """Start onboarding a workspace; the run asks for an approval before the last step.

    The server is Prefect's: PREFECT_API_URL, or the active profile.
    """
    console = new_console()
    given = parse_settings(setting or []) | {
        **one_workspace(workspace_id, create_workspace),
        "project_id": project_id,
        "requested_by": requested_by,
    }
    request = build_request(given)
    with connected() as client:
        run = calling(
            get_client(),
            lambda api: start_onboarding(api, request, idempotency_key=idempotency_key),
        )
        console.print(f"Run [bold]{printable(run.name)}[/] ({run.id})")
        console.print(run_url(client, run.id), soft_wrap=True)
        console.print(f"When it waits: cmek approve {run.id}", soft_wrap=True)


def one_workspace(workspace_id: str | None, create_workspace: str | None) -> dict[str, str]:
    """The field of the request that says which workspace.

    Raises:
        RunError: none, or both.
    """
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
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc']))} {one['input']!r}: {one['msg']}"
            for one in error.errors()
        )
        raise RunError(f"the request is not valid: {problems}") from None
    return request.model_dump(mode="json", include=set(given))
