"""`cmek deploy`: `prefect deploy --all`, and what Prefect leaves open behind it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse

from cmek.tags import CMEK_TAG
from console.prefect_client import connected, every
from console.runs import RunError
from console.terminal import new_console, printable

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

    A schedule that somebody has paused stays paused. Parameters with unknown names are refused
    from then on; plain `prefect deploy` opens that again.
    """
    console = new_console()
    with connected() as client:
        for name in deploy(client, prefect_file, project_id, on=on):
            console.print(f"Deployed {printable(name)}")


def deploy(
    client: SyncPrefectClient,
    prefect_file: Path,
    project_id: str | None,
    *,
    on: str | None = None,
) -> list[str]:
    """Deploy, keep paused schedules paused, close the forms; the deployments' names.

    Args:
        client: Of the server.
        prefect_file: The deployments.
        project_id: Google Cloud project of the keys that discovered workspaces get.
        on: Which of the file's `work_pools` takes the place of what its deployments name.

    Raises:
        RunError: Prefect refused the file; its output says why. Or the file has no such pool.
    """
    paused = _paused_schedules(client)
    with tempfile.TemporaryDirectory(prefix="cmek-deploy-") as scratch:
        if on is not None:
            prefect_file = _on_pool(prefect_file, on, Path(scratch) / "prefect.yaml")
        _prefect_deploy(client, prefect_file, project_id)
    for deployment in _deployments(client):
        _close_form(client, deployment)
        _pause_again(client, deployment, paused)
    return [one.name for one in _deployments(client)]


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
    """Refuse top-level parameters that the flow does not have.

    Prefect's own schema leaves them open, and such a run crashes with its reason in the worker's
    log only. Each deploy writes the schema anew.
    """
    schema: dict[str, Any] = dict(deployment.parameter_openapi_schema or {})
    if schema.get("additionalProperties") is False:
        return
    client.request(
        "PATCH",
        "/deployments/{id}",
        path_params={"id": deployment.id},
        json={"parameter_openapi_schema": schema | {"additionalProperties": False}},
    )


def _paused_schedules(client: SyncPrefectClient) -> set[tuple[str, str]]:
    """Deployment and slug of the schedules that are off; a deploy switches them on again."""
    return {
        (deployment.name, schedule.slug)
        for deployment in _deployments(client)
        for schedule in deployment.schedules
        if schedule.slug and not schedule.active
    }


def _pause_again(
    client: SyncPrefectClient, deployment: DeploymentResponse, paused: set[tuple[str, str]]
) -> None:
    for schedule in deployment.schedules:
        if schedule.active and (deployment.name, schedule.slug) in paused:
            client.request(
                "PATCH",
                "/deployments/{id}/schedules/{schedule_id}",
                path_params={"id": deployment.id, "schedule_id": schedule.id},
                json={"active": False},
            )


def _deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=[CMEK_TAG]))
    return list(every(client.read_deployments, deployment_filter=wanted))


if __name__ == "__main__":
    with get_client(sync_client=True) as configured:
        deploy(configured, Path(sys.argv[1]), os.environ.get(PROJECT_VARIABLE))
