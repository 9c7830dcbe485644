"""`cmek evidence`: take the record of a workspace out of Prefect, and check one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from cmek.evidence.record import Chain, loads
from cmek.evidence.report import queries_of, record_in
from cmek.onboarding.reports import artifact_key
from console.prefect_client import connected
from console.terminal import new_console, printable

app = typer.Typer(help="Export and verify what an onboarding left behind.", no_args_is_help=True)


class NoEvidenceError(LookupError):
    """The server has no record of this workspace; the message says where else one may be."""


class AnchorError(Exception):
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
