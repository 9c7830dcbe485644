"""`cmek deploy`: `prefect deploy --all`, and what Prefect leaves open behind it.

`cmek automations`: notifications and actions of the server, from the files of the project.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer
import yaml
from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from cli.client import RunError, connected, every
from cli.policy import save_default_policy
from cli.terminal import new_console, printable
from cmek.tags import CMEK_TAG

PROJECT: Final = Path(__file__).resolve().parent.parent
"""The project's folder: `prefect.yaml` and the deployments' code."""
PROJECT_VARIABLE: Final = "CMEK_PROJECT_ID"
"""What prefect.yaml reads the discovery's Google Cloud project from."""


def deploy_command(
    *,
    project_id: Annotated[
        str | None,
        typer.Option(
            "--project",
            envvar=PROJECT_VARIABLE,
            help="Google Cloud project of the keys that discovered workspaces get; without it "
            "discovery does nothing.",
        ),
    ] = None,
    prefect_file: Annotated[
        Path, typer.Option(help="The deployments.", exists=True, dir_okay=False)
    ] = PROJECT / "prefect.yaml",
    on: Annotated[
        str | None,
        typer.Option(
            help="Where runs execute: process, cloud-run or kubernetes, as the file defines them; "
            "what each deployment names unless given."
        ),
    ] = None,
) -> None:
    """Deploy everything to the configured Prefect server; safe to repeat.

    A paused schedule stays paused. Parameters with unknown names are refused
    from then on; plain `prefect deploy` opens that again.
    """
    console = new_console()
    with connected() as client:
        for name in deploy(client, prefect_file, project_id, on=on):
            console.print(f"Deployed {printable(name)}")
        if save_default_policy(client):
            console.print("Made block onboarding-policy/default with the guide's values")


def deploy(
    client: SyncPrefectClient, prefect_file: Path, project_id: str | None, *, on: str | None = None
) -> list[str]:
    """Deploy, keep paused schedules paused, close the forms; the deployments' names.

    `on` names one of the file's `work_pools`, to use instead of those that the deployments name.

    Raises:
        RunError: Prefect refused the file; its output says why. Or the file has no such pool.
    """
    paused = {
        (deployment.id, schedule.slug)
        for deployment in _deployments(client)
        for schedule in deployment.schedules
        if schedule.slug and not schedule.active
    }
    with tempfile.TemporaryDirectory(prefix="cmek-deploy-") as scratch:
        if on is not None:
            prefect_file = _on_pool(prefect_file, on, Path(scratch) / "prefect.yaml")
        _prefect_deploy(client, prefect_file, project_id)
    for deployment in _deployments(client):
        _close_form(client, deployment)
        _pause_again(client, deployment, paused)
    return [f"{client.read_flow(one.flow_id).name}/{one.name}" for one in _deployments(client)]


def _on_pool(prefect_file: Path, on: str, target: Path) -> Path:
    content = yaml.safe_load(prefect_file.read_text())
    pools = content.get("definitions", {}).get("work_pools", {})
    if on not in pools:
        raise RunError(f"{prefect_file} defines no work pool {on!r}: it has {', '.join(pools)}")
    for deployment in content["deployments"]:
        deployment["work_pool"] = deployment["work_pool"] | pools[on]
    target.write_text(yaml.safe_dump(content))
    return target


def _prefect_deploy(client: SyncPrefectClient, prefect_file: Path, project_id: str | None) -> None:
    environment = os.environ | {"PREFECT_API_URL": str(client.api_url)}
    if project_id:
        environment[PROJECT_VARIABLE] = project_id
    command = ("-m", "prefect", "deploy", "--all", "--prefect-file", str(prefect_file))
    done = subprocess.run(
        [sys.executable, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RunError(f"`prefect deploy --all` failed:\n{done.stdout}")


def _close_form(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    # Prefect's schema accepts parameters that the flow does not have; such a run crashes with its
    # reason in the worker's log only. Each deploy writes the schema anew.
    schema: dict[str, Any] = dict(deployment.parameter_openapi_schema or {})
    if schema.get("additionalProperties") is False:
        return
    closed = {"parameter_openapi_schema": schema | {"additionalProperties": False}}
    client.request("PATCH", "/deployments/{id}", path_params={"id": deployment.id}, json=closed)


def _pause_again(
    client: SyncPrefectClient, deployment: DeploymentResponse, paused: set[tuple[UUID, str]]
) -> None:
    # A deploy switches every schedule of the file on.
    for schedule in deployment.schedules:
        if schedule.active and (deployment.id, schedule.slug) in paused:
            ids = {"id": deployment.id, "schedule_id": schedule.id}
            client.request(
                "PATCH",
                "/deployments/{id}/schedules/{schedule_id}",
                path_params=ids,
                json={"active": False},
            )


def _deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=[CMEK_TAG]))
    return list(every(client.read_deployments, deployment_filter=wanted))


_FILES: Final = "deploy.automations"
_NOTIFIES: Final = "notify"
"""The capability of Prefect's notification blocks."""

automations_command = typer.Typer(
    help="Install notifications, and a watch on runs whose process has died.",
    no_args_is_help=True,
    add_completion=False,
)


@automations_command.command("install")
def install_command(
    block: Annotated[
        list[str] | None,
        typer.Option(
            help="Notification block as TYPE/NAME, e.g. slack-webhook/ops; may be given again. "
            "Without one, no notification is sent."
        ),
    ] = None,
    approval_hours: Annotated[
        float | None, typer.Option(help="How long an approval may wait; 4 unless given.")
    ] = None,
    revalidation_hours: Annotated[
        float | None, typer.Option(help="How long there may be no revalidation; 26 unless given.")
    ] = None,
    silent_seconds: Annotated[
        float | None,
        typer.Option(
            min=60,
            help="How long a run may send no heartbeat before it is watched for as long again; "
            "360 unless given, at least two PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the worker.",
        ),
    ] = None,
) -> None:
    """Install or update the automations; those of other names are left alone."""
    within = {
        "approval-waits": approval_hours and approval_hours * 3600,
        "revalidation-missed": revalidation_hours and revalidation_hours * 3600,
        "run-silent": silent_seconds,
    }
    console = new_console()
    with connected() as client:
        for name, made in install(client, block or [], within=within).items():
            console.print(f"{'installed' if made else 'updated'} {printable(name)}")


@automations_command.command("show")
def show_command() -> None:
    """Print the files, for `prefect automation create --from-file` or for reading."""
    for path in _paths():
        typer.echo(path.read_text())
        typer.echo("---")


def install(
    client: SyncPrefectClient,
    blocks: Sequence[str],
    *,
    within: dict[str, float | None] | None = None,
) -> dict[str, bool]:
    """Install every file, notifying once for each block; whether it was new, by name.

    Without a block (`TYPE/NAME`) the files that only notify are left out. `within` has seconds to
    wait, by file name, in place of the file's own.

    Raises:
        RunError: A block is missing, or is none that notifies, or a deployment is missing.
    """
    ids = [_block_id(client, block) for block in blocks]
    outcome: dict[str, bool] = {}
    for path in _paths():
        content = yaml.safe_load(path.read_text())
        seconds = (within or {}).get(path.name.removesuffix(".yaml"))
        actions = _actions(client, content["actions"], ids, seconds)
        if not actions:
            continue
        # Prefect checks a proactive trigger's time before it converts numbers.
        wait = timedelta(seconds=seconds or content["trigger"]["within"])
        trigger = content["trigger"] | {"within": wait}
        automation = AutomationCore.model_validate(
            content | {"actions": actions, "trigger": trigger}
        )
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
        outcome[automation.name] = not known
    return outcome


def _actions(
    client: SyncPrefectClient,
    actions: Sequence[dict[str, Any]],
    block_ids: Sequence[str],
    seconds: float | None,
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for action in actions:
        if action["type"] == "run-deployment":
            found.append(_run_deployment(client, dict(action), seconds))
        else:
            found += [action | {"block_document_id": block_id} for block_id in block_ids]
    return found


def _run_deployment(
    client: SyncPrefectClient, action: dict[str, Any], seconds: float | None
) -> dict[str, Any]:
    name = action.pop("deployment")
    try:
        found = client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise RunError(
            f"deployment {name!r} is not on this server: deploy it with `cmek deploy`"
        ) from None
    if seconds is not None:
        action["parameters"] = action["parameters"] | {"watch_seconds": seconds}
    return action | {"deployment_id": str(found.id), "source": "selected"}


def _block_id(client: SyncPrefectClient, block: str) -> str:
    slug, _, name = block.partition("/")
    try:
        document = client.read_block_document_by_name(name, slug, include_secrets=False)
    except ObjectNotFound:
        raise RunError(
            f"block {block!r} is not on this server: make it in the UI under Blocks, or name it "
            "as TYPE/NAME, for example slack-webhook/ops"
        ) from None
    schema = document.block_schema
    if schema is None or _NOTIFIES not in schema.capabilities:
        raise RunError(f"block {block!r} can't notify: name a Slack, e-mail or webhook block")
    return str(document.id)


def _paths() -> list[Any]:
    found = [path for path in files(_FILES).iterdir() if path.name.endswith(".yaml")]
    return sorted(found, key=lambda path: path.name)


if __name__ == "__main__":
    with get_client(sync_client=True) as configured:
        deploy(configured, Path(sys.argv[1]), os.environ.get(PROJECT_VARIABLE))
