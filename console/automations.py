"""`cmek automations`: install what tells people, from the files that come with the project."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files
from typing import Annotated, Any, Final

import typer
import yaml
from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from console.prefect_client import connected
from console.runs import RunError
from console.terminal import new_console, printable

FILES: Final = "console.automation_files"
NOTIFIES: Final = "notify"
"""The capability of Prefect's notification blocks."""

app = typer.Typer(
    help="Tell people by Prefect's notification blocks; notice runs that died without a word.",
    no_args_is_help=True,
)


@app.command("install")
def install_command(
    block: Annotated[
        list[str] | None,
        typer.Option(
            help="Notification block as TYPE/NAME, e.g. slack-webhook/ops; may be given again. "
            "Without one nobody is told."
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
        "approval-waits": _seconds(approval_hours),
        "revalidation-missed": _seconds(revalidation_hours),
        "run-silent": silent_seconds,
    }
    console = new_console()
    with connected() as client:
        for name, made in install(client, block or [], within=within).items():
            console.print(f"{'installed' if made else 'updated'} {printable(name)}")


@app.command("show")
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

    Without a block the files that only notify are left out.

    Args:
        client: Of the server.
        blocks: Notification blocks as `TYPE/NAME`.
        within: Seconds to wait, by file name, in place of the file's own.

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
        automation = build(content | {"actions": actions}, seconds)
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
        outcome[automation.name] = not known
    return outcome


def build(content: dict[str, Any], seconds: float | None) -> AutomationCore:
    """An automation from a file's content, with another time to wait where one is given."""
    trigger = dict(content["trigger"])
    # Prefect checks a proactive trigger's time before it converts numbers
    trigger["within"] = timedelta(seconds=seconds or trigger["within"])
    return AutomationCore.model_validate(content | {"trigger": trigger})


def _actions(
    client: SyncPrefectClient,
    actions: Sequence[dict[str, Any]],
    block_ids: Sequence[str],
    seconds: float | None,
) -> list[dict[str, Any]]:
    """The file's actions, aimed at what this server has: each block, the deployment by its id."""
    aimed: list[dict[str, Any]] = []
    for action in actions:
        if action["type"] == "run-deployment":
            aimed.append(_running(client, dict(action), seconds))
        else:
            aimed += [action | {"block_document_id": block_id} for block_id in block_ids]
    return aimed


def _running(
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
    if schema is None or NOTIFIES not in schema.capabilities:
        raise RunError(f"block {block!r} can't notify: name a Slack, e-mail or webhook block")
    return str(document.id)


def _paths() -> list[Any]:
    found = [path for path in files(FILES).iterdir() if path.name.endswith(".yaml")]
    return sorted(found, key=lambda path: path.name)


def _seconds(hours: float | None) -> float | None:
    return None if hours is None else hours * 3600
