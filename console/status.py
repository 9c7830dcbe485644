"""`cmek status`: the latest verdicts, worst first."""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey
from rich.table import Table

from cmek.keys.verdicts import Verdict
from cmek.revalidation.fleet import FleetRow, counts, merged, published, read_rows
from console.prefect_client import connected
from console.runs import RunError
from console.terminal import new_console, printable
from tasks.artifacts import FLEET

STYLES: Final = {
    Verdict.BROKEN: "bold red",
    Verdict.UNKNOWN: "bold",
    Verdict.AT_RISK: "yellow",
    Verdict.HEALTHY: "green",
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
        console.print(_table([row for row in rows if everything or row.level != Verdict.HEALTHY]))
        found = counts(rows)
        console.print(", ".join(f"{found[v]} {v.replace('_', ' ')}" for v in reversed(Verdict)))
        console.print(f"Last look at {max(row.checked for row in rows)} UTC")
    if any(row.level is Verdict.BROKEN for row in rows):
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
            "no revalidation has ended on this server yet: start revalidate-keys/daily, or wait "
            "for its schedule"
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
