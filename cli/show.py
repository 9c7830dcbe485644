"""`cmek status`: the latest verdicts, worst first.

`cmek history WORKSPACE`: its onboarding, approvals and verdicts, as Prefect has them.

`cmek evidence`: take the record of a workspace out of Prefect, and check one.

`cmek terraform`: the live keys of workspaces as a Terraform module.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from rich.table import Table

from cli.client import RunError, connected, every
from cli.terminal import new_console, printable
from cmek.errors import CmekError
from cmek.evidence.record import Chain, loads
from cmek.evidence.report import queries_of, record_in
from cmek.keys.verdicts import Health, KeyRecord
from cmek.onboarding.reports import artifact_key
from cmek.revalidation.fleet import SIGNS, FleetRow, counts, merged, published, read_page, read_rows
from cmek.tags import workspace_tag
from cmek.terraform.module import (
    ManagedKey,
    read_all_keys,
    read_workspace_keys,
    render_module,
    write_module,
)
from tasks.artifacts import FLEET, page_key
from tasks.clients import admin_client, close_clients, kms_client

STYLES: Final = {
    Health.BROKEN: "bold red",
    Health.UNKNOWN: "bold",
    Health.AT_RISK: "yellow",
    Health.HEALTHY: "green",
}


def status_command(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Healthy keys too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, all keys.")] = False,
) -> None:
    """Show the verdicts of the last revalidation; exit code 1 when a key is broken."""
    console = new_console()
    with connected() as client:
        rows = read_fleet(client)
    if as_json:
        typer.echo(json.dumps(published(rows), ensure_ascii=False))
    else:
        console.print(_table([row for row in rows if everything or row.level != Health.HEALTHY]))
        found = counts(rows)
        console.print(", ".join(f"{found[v]} {v.replace('_', ' ')}" for v in reversed(Health)))
        console.print(f"Last look at {max(row.checked for row in rows)} UTC")
    if any(row.level is Health.BROKEN for row in rows):
        raise typer.Exit(1)


def read_fleet(client: SyncPrefectClient) -> list[FleetRow]:
    """The rows of the last table, worst first.

    Raises:
        RunError: There is none yet.
    """
    wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=[FLEET]))
    found = client.read_latest_artifacts(artifact_filter=wanted, limit=1)
    rows = merged({}, _rows(found[0].data) if found else (), all_keys=True)
    if not rows:
        raise RunError(
            "no revalidation has ended on this server yet: start revalidate-keys/scheduled, or "
            "wait for its schedule"
        )
    return rows


def _rows(data: object) -> list[FleetRow]:
    return list(read_rows(json.loads(data) if isinstance(data, str) else data).values())


def _table(rows: list[FleetRow]) -> Table:
    table = Table("Verdict", "Workspaces", "Key", "Why", "Since", "Time left", "Last days")
    for row in rows:
        table.add_row(
            f"[{STYLES[row.level]}]{printable(row.verdict)}[/]",
            printable(row.workspaces),
            printable(row.key_name),
            printable(row.why),
            printable(row.since),
            printable(row.time_left),
            printable(row.days[-7:]),
        )
    return table


PAGE = 200


@dataclass(frozen=True)
class Happening:
    """One line of the history."""

    at: datetime
    what: str
    outcome: str
    who: str = ""
    """As they said; Prefect verifies nobody."""
    where: str = ""
    """The flow run."""


def history_command(
    workspace_id: Annotated[str, typer.Argument(help="The workspace, wrkspc_….")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Show what happened to one workspace's key, oldest first; equal verdicts in a row as one."""
    with connected() as client:
        happenings = history(client, workspace_id)
    if not happenings:
        raise RunError(f"nothing is known about {workspace_id} on this server: check the id")
    if as_json:
        typer.echo(json.dumps([vars(one) for one in happenings], default=str, ensure_ascii=False))
        return
    table = Table("When", "What", "Outcome", "Who (as they said)", "Run")
    for one in happenings:
        when = f"{one.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(when, *map(printable, (one.what, one.outcome, one.who, one.where)))
    new_console().print(table)


def history(client: SyncPrefectClient, workspace_id: str) -> list[Happening]:
    """Everything about a workspace, oldest first."""
    found = [*_onboardings(client, workspace_id), *_verdicts(client, workspace_id)]
    return sorted(found, key=lambda one: one.at)


def _onboardings(client: SyncPrefectClient, workspace_id: str) -> Iterator[Happening]:
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(workspace_id)]))
    for run in every(client.read_flow_runs, flow_run_filter=wanted):
        asked = str(run.parameters.get("request", {}).get("requested_by", ""))
        if run.created:
            yield Happening(run.created, "onboarding asked for", "", asked, str(run.id))
        for state in client.read_flow_run_states(run.id):
            if state.is_paused() or state.is_final():
                outcome = state.message or ""
                yield Happening(state.timestamp, f"run {state.name}", outcome, "", str(run.id))
        yield from _answers(client, run)


def _answers(client: SyncPrefectClient, run: FlowRun) -> Iterator[Happening]:
    """What people answered; the server keeps the newest answer of each ask."""
    for given in client.filter_flow_run_input(run.id, "suspended", limit=PAGE, exclude_keys=set()):
        answer = _answer(given.value) if given.key.endswith("-response") else None
        if answer is None or given.created is None:
            continue
        outcome = f"{answer.get('decision')}: {answer.get('comment', '')}"
        yield Happening(
            given.created, "answered", outcome, str(answer.get("approver", "")), str(run.id)
        )


def _answer(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "decision" in answer else None


def _verdicts(client: SyncPrefectClient, workspace_id: str) -> Iterator[Happening]:
    """Each change of verdict, from the history of the workspace's key."""
    for external_key_id in _keys_of(client, workspace_id):
        last = None
        for record in _records(client, external_key_id):
            if record.verdict is not last:
                why = "; ".join(one.says for one in record.reasons if one.means is record.verdict)
                sign = SIGNS[record.verdict]
                yield Happening(record.checked_at, f"verdict {sign}", why, "", record.run_id)
            last = record.verdict


def _keys_of(client: SyncPrefectClient, workspace_id: str) -> list[str]:
    try:
        rows = read_fleet(client)
    except RunError:
        return []
    return [row.external_key_id for row in rows if f"({workspace_id}" in row.workspaces]


def _records(client: SyncPrefectClient, external_key_id: str) -> list[KeyRecord]:
    """A key's looks, oldest first."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[page_key(external_key_id)]))
    looks = every(client.read_artifacts, artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC)
    records = filter(None, (read_page(str(artifact.data)) for artifact in looks))
    return sorted(records, key=lambda record: record.checked_at)


app = typer.Typer(help="Export and verify what an onboarding left behind.", no_args_is_help=True)


class NoEvidenceError(CmekError, LookupError):
    """The server has no record of this workspace; the message says where else one may be."""


class AnchorError(CmekError):
    """A record that verifies by itself, but is not the one that a hash elsewhere speaks of."""


@app.command("export")
def export_command(
    workspace_id: Annotated[str, typer.Argument(metavar="WORKSPACE", help="wrkspc_….")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="File to write; standard output without it.")
    ] = None,
) -> None:
    """Write the verified record of a workspace; where else to look goes to standard error."""
    with connected() as client:
        record = read_record(client, workspace_id)
    chain = loads(record)
    if out is None:
        typer.echo(record, nl=False)
    else:
        out.write_bytes(record.encode())
    console = new_console(stderr=True)
    console.print(f"{len(chain.entries)} entries, head {chain.head}", soft_wrap=True)
    for query in queries_of(chain):
        console.print(f"\n[bold]{printable(query.title)}[/] {printable(query.needs)}")
        console.print(printable(query.command), soft_wrap=True)


@app.command("verify")
def verify_command(
    file: Annotated[Path, typer.Argument(help="A record, as `export` wrote it.")],
    *,
    anchor: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="Hash that stands elsewhere: the workspace's tag cmek-evidence, or a report.",
        ),
    ] = None,
) -> None:
    """Check every entry; the first one that was changed is named, and the exit code is 1.

    A record proves nothing about who wrote it: compare it with a hash that stands elsewhere.
    """
    chain = loads(file.read_bytes())
    if anchor is not None:
        _check_anchor(chain, anchor)
    console = new_console()
    console.print(f"Verified: {len(chain.entries)} entries, head {chain.head}", soft_wrap=True)
    for entry in chain.entries:
        if entry.kind == "attached":
            told = f"Attached: {entry.subject}, {entry.at:%Y-%m-%d %H:%M:%S %Z}, hash {entry.hash}"
            console.print(printable(told), soft_wrap=True)
    if anchor is None:
        console.print("Not compared with a hash from elsewhere; --anchor does that.")


def read_record(client: SyncPrefectClient, workspace_id: str) -> str:
    """The record that was published last.

    Raises:
        NoEvidenceError: None was.
        BrokenEvidenceError: The artifact holds no record.
    """
    key = artifact_key("evidence", workspace_id)
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
        sort=ArtifactSort.UPDATED_DESC,
        limit=1,
    )
    if not found:
        raise NoEvidenceError(
            f"the server has no artifact {key}: was {workspace_id} onboarded on another server, or "
            "has this one dropped its history? A result-storage block keeps copies under "
            f"cmek-evidence/{workspace_id}/"
        )
    return record_in(str(found[0].data))


def _check_anchor(chain: Chain, anchor: str) -> None:
    if anchor not in {entry.hash for entry in chain.entries}:
        raise AnchorError(
            f"no entry has the hash {anchor}: this record is whole, but it is not the one that the "
            "hash was taken from"
        )


def terraform_command(  # noqa: PLR0913 - a parameter is an option of the command
    workspace_id: Annotated[
        str | None, typer.Argument(metavar="WORKSPACE", help="The workspace, wrkspc_….")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the module.")],
    every: Annotated[
        bool, typer.Option("--all", help="One module for all workspaces that have a key.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite files that say something else.")
    ] = False,
    anthropic_block: Annotated[
        str, typer.Option(help="Name of the AnthropicAdmin block.")
    ] = "anthropic-admin",
    kms_block: Annotated[str, typer.Option(help="Name of the GoogleKms block.")] = "google-kms",
) -> None:
    """Write Terraform that adopts the key of a workspace, or of all, exactly as it is now.

    It reads the live keys with the blocks of the configured Prefect server and writes nothing
    but the files.
    """
    if (workspace_id is None) is not every:
        raise typer.BadParameter("name one workspace, or give --all")
    with connected():
        keys = asyncio.run(_read(anthropic_block, kms_block, workspace_id))
    write_module(render_module(keys), out, replace=replace)
    console = new_console()
    for key in keys:
        users = ", ".join(key.workspaces)
        console.print(printable(f"{key.name} ({users})"), soft_wrap=True)
    console.print(
        f"Wrote {printable(out)}. Next: terraform -chdir={printable(out)} init, then plan: it "
        "must show imports, and nothing to add or destroy.",
        soft_wrap=True,
    )


async def _read(
    anthropic_block: str, kms_block: str, workspace_id: str | None
) -> tuple[ManagedKey, ...]:
    try:
        admin, kms = await admin_client(anthropic_block), await kms_client(kms_block)
        if workspace_id is None:
            return await read_all_keys(admin, kms)
        return await read_workspace_keys(admin, kms, workspace_id)
    finally:
        await close_clients()
