"""`cmek deploy`: checks work pools, runs `prefect deploy --all`, and corrects what that leaves.

`cmek automations`: notifications and actions of the server, from the files of the project.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from unittest import mock

import typer
import yaml
from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from cli.client import RunError, connected, every
from cli.kept import Setting, keep_decisions
from cli.options import JsonArray, JsonObject, check_project
from cli.policy import save_default_policy
from cli.terminal import new_console, printable
from cmek.onboarding.plan import possible_titles
from cmek.tags import CMEK_TAG

PROJECT: Final = Path(__file__).resolve().parent.parent
"""The project's folder: `prefect.yaml` and the deployments' code."""
PREFECT_FILE: Final = PROJECT / "prefect.yaml"
"""The deployments; a package that is installed without the project's folder lacks this file."""
OWN_ENVIRONMENT: Final = (
    "run the command of the project's own environment, .venv/bin/cmek in its folder "
    "(docs/operations.md, step 1)"
)
Change = Literal["installed", "updated", "unchanged", "removed"]
_LAST_LINES: Final = 6
"""How many of Prefect's last lines are shown; a traceback ends with the cause."""
PROJECT_VARIABLE: Final = "CMEK_PROJECT_ID"
"""What prefect.yaml reads the discovery's Google Cloud project from."""


def deploy_command(
    *,
    project_id: Annotated[
        str | None,
        typer.Option(
            "--project",
            envvar=PROJECT_VARIABLE,
            callback=check_project,
            help="Google Cloud project of the keys that discovered workspaces get; without it "
            "discovery does nothing.",
        ),
    ] = None,
    prefect_file: Annotated[
        Path, typer.Option(help="The deployments.", dir_okay=False)
    ] = PREFECT_FILE,
    on: Annotated[
        str | None,
        typer.Option(
            help="Where runs execute: process, cloud-run or kubernetes, as the file defines them; "
            "what each deployment names unless given."
        ),
    ] = None,
    as_json: JsonObject = False,
) -> None:
    """Deploy everything to the configured Prefect server; safe to repeat.

    What was changed in a deployment is kept: its parameters, schedules, pause and work pool; each
    difference from the file is said. Parameters with unknown names are refused from then on; plain
    `prefect deploy` opens that again, and keeps nothing.
    """
    console = new_console(stderr=as_json)
    with connected() as client:
        done = deploy(client, prefect_file, project_id, on=on)
        for name in done.names:
            console.print(f"Deployed {printable(name)}")
        for setting in done.settings:
            console.print(printable(str(setting)))
        policy_made = save_default_policy(client)
        if policy_made:
            console.print("Made block onboarding-policy/default with the guide's values")
    if as_json:
        rows = [one.row() for one in done.settings]
        answer = {"deployments": done.names, "settings": rows, "policy_made": policy_made}
        typer.echo(json.dumps(answer))


class Deployed(NamedTuple):
    """What a deploy has done."""

    names: list[str]
    """All deployments of this project, as FLOW/NAME."""
    settings: list[Setting]
    """In what the server differed from the file."""


def deploy(
    client: SyncPrefectClient, prefect_file: Path, project_id: str | None, *, on: str | None = None
) -> Deployed:
    """Deploy with what was changed on the server, and close the forms.

    `on` names one of the file's `work_pools`, to use instead of those that the deployments have.

    Raises:
        RunError: There is no such file. Or Prefect refused it; its output says why. Or it has no
            such pool, or the pool is not on the server, or lets a run choose what is executed. Or
            a parameter on the server can't be kept.
    """
    if not prefect_file.is_file():
        raise RunError(
            f"there is no {prefect_file}, so nothing was deployed: {OWN_ENVIRONMENT}, or name the "
            "file with --prefect-file"
        )
    given = {PROJECT_VARIABLE: project_id} if project_id else {}
    content = _content(prefect_file)
    if on is not None:
        _use_pool(content, on, prefect_file)
    _pools_of(content, prefect_file)
    with (
        tempfile.TemporaryDirectory(prefix="cmek-deploy-") as scratch,
        mock.patch.dict(os.environ, given),
    ):
        settings = keep_decisions(client, content, keep_pools=on is None)
        for pool in _pools_of(content, prefect_file):
            if problem := pool_problem(client, pool):
                raise RunError(f"{problem}; nothing was deployed")
        completed = Path(scratch) / "prefect.yaml"
        completed.write_text(yaml.safe_dump(content), encoding="utf-8")
        try:
            _prefect_deploy(client, completed)
        finally:  # also after a failure, for what was deployed before it
            for deployment in find_deployments(client):
                _close_form(client, deployment)
    return Deployed(sorted(named_deployments(client)), settings)


def _content(prefect_file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(prefect_file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise RunError(f"{prefect_file} is not YAML ({why}); nothing was deployed") from error
    if not isinstance(content, dict) or not isinstance(content.get("deployments"), list):
        raise RunError(f"{prefect_file} has no list of deployments; nothing was deployed")
    return content


def _use_pool(content: dict[str, Any], on: str, prefect_file: Path) -> None:
    pools = content.get("definitions", {}).get("work_pools", {})
    if on not in pools:
        raise RunError(f"{prefect_file} defines no work pool {on!r}: it has {', '.join(pools)}")
    for deployment in content["deployments"]:
        deployment["work_pool"] = deployment["work_pool"] | pools[on]


def _pools_of(content: dict[str, Any], prefect_file: Path) -> list[str]:
    try:
        return sorted({one["work_pool"]["name"] for one in content["deployments"]})
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{prefect_file}: each deployment needs a work_pool with a name; nothing was deployed"
        ) from error


def create_work_pool(client: SyncPrefectClient, name: str, template: Path, at_once: int) -> None:
    """Make a process pool from the template; its default queue executes so many runs at once.

    The limit is the queue's: a run that is resumed before its process has ended kills a worker
    that has a `--limit` of its own ("this borrower is already holding one of this CapacityLimiter's
    tokens").
    """
    wanted = WorkPoolCreate(
        name=name,
        type="process",
        base_job_template=json.loads(template.read_text(encoding="utf-8")),
    )
    client.create_work_pool(wanted)
    limit = {"concurrency_limit": at_once}
    path = {"work_pool_name": name, "name": "default"}
    client.request(
        "PATCH", "/work_pools/{work_pool_name}/queues/{name}", path_params=path, json=limit
    )


def pool_problem(client: SyncPrefectClient, name: str) -> str | None:
    """Why runs must not be given to this pool, or None.

    Whoever may start a run may choose its job variables, and a worker resolves references to blocks
    in them. So a pool must accept none: Prefect's own templates accept command, environment and
    directory, and a label or a name is enough to bring a block's secret into a log.
    """
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        return (
            f"work pool {name!r} is not on this server: make it from a template of deploy/, as in"
            f" docs/operations.md (`prefect work-pool create {name} --base-job-template …`)"
        )
    template = pool.base_job_template
    taken = set(template.get("variables", {}).get("properties", {}))
    # Prefect merges a run's variables into an `env` that is a dictionary here, whatever the schema.
    if isinstance(template.get("job_configuration", {}).get("env"), dict):
        taken.add("env")
    if not taken:
        return None
    return (
        f"work pool {name!r} lets whoever starts a run choose {', '.join(sorted(taken))}: replace"
        f" its template (`prefect work-pool update {name} --base-job-template …`) by one of deploy/"
    )


def _prefect_deploy(client: SyncPrefectClient, prefect_file: Path) -> None:
    from prefect.cli import app  # noqa: PLC0415 - a second of imports, for this command only

    # Prefect's command reads argv and environment; a separate process would import for seconds.
    arguments = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(prefect_file)]
    output = io.StringIO()
    with (
        temporary_settings({PREFECT_API_URL: str(client.api_url)}),
        mock.patch.object(sys, "argv", arguments),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            app()
        except SystemExit as ended:
            if ended.code:
                lines = [line for line in output.getvalue().splitlines() if line.strip()]
                last = "\n".join(lines[-_LAST_LINES:])
                raise RunError(
                    "`prefect deploy --all` failed; it may have deployed some. Correct the cause "
                    f"and deploy again. It said at last:\n{last}"
                ) from None


def _close_form(client: SyncPrefectClient, deployment: DeploymentResponse) -> None:
    # Prefect's schema accepts parameters that the flow does not have; such a run crashes with its
    # reason in the worker's log only. Each deploy writes the schema anew.
    schema: dict[str, Any] = dict(deployment.parameter_openapi_schema or {})
    if schema.get("additionalProperties") is False:
        return
    closed = {"parameter_openapi_schema": schema | {"additionalProperties": False}}
    client.request("PATCH", "/deployments/{id}", path_params={"id": deployment.id}, json=closed)


def find_deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """All deployments of this project."""
    wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=[CMEK_TAG]))
    return list(every(client.read_deployments, deployment_filter=wanted))


def named_deployments(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """The same by FLOW/NAME: a name alone may be that of several."""
    found = find_deployments(client)
    flows = {one: client.read_flow(one).name for one in {each.flow_id for each in found}}
    return {f"{flows[one.flow_id]}/{one.name}": one for one in found}


_FILES: Final = "deploy.automations"
_TITLES: Final = "WARNING_TITLES"
"""Placeholder in a file for the titles of all warnings."""
_NOTIFIES: Final = "notify"
"""The capability of Prefect's notification blocks."""

automations_command = typer.Typer(
    help="Install notifications, and a watch on runs whose process has died.",
    no_args_is_help=True,
    add_completion=False,
)


@automations_command.command("install")
def install_command(  # noqa: PLR0913 - a parameter is an option of the command
    *,
    block: Annotated[
        list[str] | None,
        typer.Option(
            help="Notification block as TYPE/NAME, e.g. slack-webhook/ops; may be given again. "
            "Without one, no notification is sent."
        ),
    ] = None,
    approval_hours: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How long an approval may wait before a reminder; 4 unless given. 0: no reminder, "
            "only the notification that comes at once.",
        ),
    ] = None,
    expiry_hours: Annotated[
        float | None,
        typer.Option(min=1, help="When a request expires soon, after its start; 144 unless given."),
    ] = None,
    revalidation_hours: Annotated[
        float | None,
        typer.Option(min=1, help="How long there may be no revalidation; 26 unless given."),
    ] = None,
    silent_seconds: Annotated[
        float | None,
        typer.Option(
            min=60,
            help="How long a run may send no heartbeat before it is watched for as long again; "
            "360 unless given, at least two PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the worker.",
        ),
    ] = None,
    as_json: JsonArray = False,
) -> None:
    """Install or update the automations; those of other names are left alone."""
    within = {
        "approval-waits": approval_hours and approval_hours * 3600,
        "approval-expires": expiry_hours and expiry_hours * 3600,
        "revalidation-missed": revalidation_hours and revalidation_hours * 3600,
        "run-silent": silent_seconds,
    }
    console = new_console(stderr=as_json)
    with connected() as client:
        installed = install(client, block or [], within=within)
    for name, change in installed.items():
        console.print(f"{change} {printable(name)}")
    if "updated" in installed.values():
        console.print("What waited when its automation was updated gets no reminder any more.")
    if as_json:
        rows = [
            {"automation": name, "new": change == "installed", "change": change}
            for name, change in installed.items()
        ]
        typer.echo(json.dumps(rows))


@automations_command.command("show")
def show_command(
    *,
    as_json: JsonArray = False,
) -> None:
    """Print the files, for `prefect automation create --from-file` or for reading."""
    if as_json:
        typer.echo(json.dumps([yaml.safe_load(automation_text(one)) for one in automation_files()]))
        return
    for path in automation_files():
        typer.echo(automation_text(path))
        typer.echo("---")


def install(
    client: SyncPrefectClient,
    blocks: Sequence[str],
    *,
    within: dict[str, float | None] | None = None,
) -> dict[str, Change]:
    """Install every file, notifying once for each block; what was done, by name.

    Without a block (`TYPE/NAME`) the files that only notify are left out. `within` has seconds to
    wait, by file name, in place of the file's own; 0 removes its automation.

    Raises:
        RunError: A block is missing, or is none that notifies, or a deployment is missing.
    """
    ids = [_block_id(client, block) for block in blocks]
    outcome: dict[str, Change] = {}
    for path in automation_files():
        content = yaml.safe_load(automation_text(path))
        seconds = (within or {}).get(path.name.removesuffix(".yaml"))
        actions = _actions(client, content["actions"], ids, seconds)
        if not actions and seconds != 0:
            continue
        known = client.read_automations_by_name(content["name"])
        if seconds == 0:
            for one in known:
                client.delete_automation(one.id)
                outcome[content["name"]] = "removed"
            continue
        # Prefect checks a proactive trigger's time before it converts numbers.
        wait = timedelta(seconds=seconds or content["trigger"]["within"])
        trigger = content["trigger"] | {"within": wait}
        automation = AutomationCore.model_validate(
            content | {"actions": actions, "trigger": trigger}
        )
        outcome[automation.name] = _put(client, automation, known)
    return outcome


def _put(
    client: SyncPrefectClient, automation: AutomationCore, known: Sequence[Automation]
) -> Change:
    """Create or update it. An equal one is left alone: an update ends each wait that has begun."""
    if not known:
        client.create_automation(automation)
        return "installed"
    (there, *_) = known
    fields = there.model_dump(include=set(AutomationCore.model_fields))
    if AutomationCore.model_validate(fields) == automation:
        return "unchanged"
    client.update_automation(there.id, automation)
    return "updated"


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


REMINDER: Final = "cmek: approval waits too long"
"""The automation that `--approval-hours 0` leaves out."""


def automation_files() -> list[Any]:
    """The automations that are installed, sorted by name."""
    found = [path for path in files(_FILES).iterdir() if path.name.endswith(".yaml")]
    return sorted(found, key=lambda path: path.name)


def automation_text(path: Any) -> str:  # noqa: ANN401 - a resource, which may be no file
    """What a file holds, with the titles that a notification may show in their place."""
    from cmek.keys.prerequisites import CATALOGUE  # noqa: PLC0415 - Google's libraries

    text = str(path.read_text(encoding="utf-8"))
    return text.replace(_TITLES, json.dumps(possible_titles(CATALOGUE)))
