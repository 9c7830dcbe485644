"""`cmek evidence`: the record of an onboarding. `cmek terraform`: the live keys as a module."""

from __future__ import annotations

import asyncio
import json
import shlex
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.sorting import ArtifactSort

from cli.client import connected
from cli.options import (
    AnthropicBlock,
    JsonObject,
    KmsBlock,
    Subject,
    check_workspace,
)
from cli.terminal import new_console, printable
from cmek.errors import CmekError
from cmek.evidence.record import Chain, EvidenceEntry, EvidenceIntegrityError, loads
from cmek.evidence.report import queries_of, record_in
from cmek.names import artifact_key
from cmek.signatures.statement import NAMESPACE, UnreadableApprovalError, parse_signed
from cmek.terraform.module import (
    ManagedKey,
    read_all_keys,
    read_workspace_keys,
    render_module,
    write_module,
)
from tasks.clients import admin_client, block_names, close_clients, kms_client

evidence_command = typer.Typer(
    help="Export and verify what an onboarding left behind.",
    no_args_is_help=True,
    add_completion=False,
)


class NoEvidenceError(CmekError, LookupError):
    """The server has no record of this workspace; the message says where else one may be."""


class AnchorError(CmekError):
    """The record verifies, but the given hash was taken from another record."""


@evidence_command.command("export")
def export_command(
    workspace_id: Subject,
    *,
    out: Annotated[
        Path | None, typer.Option(help="File to write; standard output without it.")
    ] = None,
    approvals: Annotated[
        Path | None,
        typer.Option(help="Folder for the signed approvals, as `ssh-keygen -Y verify` reads them."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object about the file; needs --out.")
    ] = False,
) -> None:
    """Write the verified record of a workspace; where else to look goes to standard error."""
    out = None if out == Path("-") else out
    if as_json and out is None:
        raise typer.BadParameter("the record itself goes to standard output: give --out FILE")
    with connected() as client:
        record = read_record(client, workspace_id)
    try:
        chain = loads(record)
    except EvidenceIntegrityError as error:
        raise EvidenceIntegrityError(
            f"{artifact_key('evidence', workspace_id)} on the server: {error}. It was changed, so "
            "nothing was written. `prefect artifact inspect` shows it as it is; the worker's "
            f"records (CMEK_RECORDS) keep copies under evidence/{workspace_id}/"
        ) from error
    if out is None:
        typer.echo(record.encode(), nl=False)  # as bytes: the terminal may not be UTF-8
    else:
        out.write_bytes(record.encode())
    console = new_console(stderr=True)
    console.print(f"{len(chain.entries)} entries, head {chain.head}", soft_wrap=True)
    commands = write_approvals(chain, approvals) if approvals is not None else []
    if as_json:
        queries = [one.model_dump() for one in queries_of(chain)]
        facts = {"workspace": workspace_id, "file": str(out)} | _facts(chain)
        typer.echo(json.dumps(facts | {"verify_approvals": commands, "queries": queries}))
        return
    for command in commands:
        console.print(printable(command), soft_wrap=True)
    if approvals is not None and not commands:
        console.print("No approval was signed: nothing was written to the folder.", soft_wrap=True)
    for query in queries_of(chain):
        needs = f"needs: {printable(query.needs)}"
        console.print(f"\n[bold]{printable(query.title)}[/]\n{needs}", soft_wrap=True)
        console.print(printable(query.command), soft_wrap=True)


def _facts(chain: Chain) -> dict[str, Any]:
    attached = [
        {"subject": one.subject, "at": one.at.isoformat(), "hash": one.hash}
        for one in chain.entries
        if one.kind == "attached"
    ]
    return {"entries": len(chain.entries), "head": chain.head, "attached": attached}


def write_approvals(chain: Chain, folder: Path) -> list[str]:
    """Write each signed approval as a statement and its signature, byte for byte.

    Returns:
        For each the command that verifies it, to be run in the folder.

    Raises:
        EvidenceIntegrityError: An entry's time can't be given to OpenSSH.
    """
    folder.mkdir(parents=True, exist_ok=True)
    commands = []
    for entry in chain.entries:
        body = entry.body if isinstance(entry.body, dict) else {}
        if entry.kind != "approval_response":
            continue
        try:
            given = parse_signed(str(body.get("signed_approvals", "")))
        except UnreadableApprovalError:
            continue  # typed, or a rejection
        for number, one in enumerate(given, start=1):
            name = f"{entry.number}-{number}"
            (folder / f"{name}.json").write_text(one.statement.text, encoding="utf-8")
            (folder / f"{name}.sig").write_text(one.signature, encoding="utf-8")
            # as of that time, because an approver's `valid-before` may have passed since
            then = _verify_time(entry)
            commands.append(
                f"TZ=UTC ssh-keygen -Y verify -O verify-time={then} -f allowed_signers "
                f"-I {shlex.quote(one.statement.approver)} "
                f"-n {NAMESPACE} -s {name}.sig < {name}.json"
            )
    return commands


def _verify_time(entry: EvidenceEntry) -> str:
    try:
        return f"{entry.at.astimezone(UTC):%Y%m%d%H%M%S}"
    except OverflowError as error:
        raise EvidenceIntegrityError(
            f"entry {entry.number} is of {entry.at}, which is no time in UTC: no onboarding wrote "
            "it. Compare the record with the copies in the worker's records (CMEK_RECORDS)"
        ) from error


@evidence_command.command("verify")
def verify_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A record, as `export` wrote it.")],
    *,
    anchor: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="Hash that stands elsewhere: the workspace's tag cmek-evidence, or a report.",
        ),
    ] = None,
    as_json: JsonObject = False,
) -> None:
    """Check every entry; the first one that was changed is named, and the exit code is 1.

    A record proves nothing about who wrote it: compare it with a hash that stands elsewhere.
    """
    try:
        chain = loads(file.read_bytes())
    except EvidenceIntegrityError as error:
        raise EvidenceIntegrityError(
            f"{file}: {error}; it was changed, or is no record that `cmek evidence export` wrote"
        ) from error
    covered = next((one.number for one in chain.entries if one.hash == anchor), None)
    if anchor is not None and covered is None:
        raise AnchorError(
            f"no entry has the hash {anchor}: this record is whole, but it is not the one that the "
            "hash was taken from"
        )
    if as_json:
        typer.echo(json.dumps(_facts(chain) | {"anchor": anchor, "covered": covered}))
        return
    console = new_console()
    console.print(f"Verified: {len(chain.entries)} entries, head {chain.head}", soft_wrap=True)
    for entry in chain.entries:
        if entry.kind == "attached":
            text = f"Attached: {entry.subject}, {entry.at:%Y-%m-%d %H:%M:%S %Z}, hash {entry.hash}"
            console.print(printable(text), soft_wrap=True)
    if covered is None:
        console.print("Not compared with a hash from elsewhere; --anchor does that.")
    elif covered < len(chain.entries):
        console.print(
            f"The hash covers entries 1 to {covered}. Whoever could write the file may have added "
            "those after it.",
            soft_wrap=True,
        )


def read_record(client: SyncPrefectClient, workspace_id: str) -> str:
    """The record that was published last.

    Raises:
        NoEvidenceError: No record was published.
        EvidenceIntegrityError: The artifact holds no record.
    """
    key = artifact_key("evidence", workspace_id)
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter.model_validate({"key": {"any_": [key]}}),
        sort=ArtifactSort.UPDATED_DESC,
        limit=1,
    )
    if not found:
        raise NoEvidenceError(
            f"the server has no artifact {key}: was {workspace_id} onboarded on another server, or "
            "has this one dropped its history? The worker's records (CMEK_RECORDS) keep copies "
            f"under evidence/{workspace_id}/"
        )
    return record_in(str(found[0].data))


def terraform_command(  # noqa: PLR0913 - a parameter is an option of the command
    workspace_id: Annotated[
        str | None,
        typer.Argument(
            metavar="WORKSPACE", help="The workspace, wrkspc_….", callback=check_workspace
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the module.")],
    every: Annotated[
        bool, typer.Option("--all", help="One module for all workspaces that have a key.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite files that say something else.")
    ] = False,
    anthropic_block: AnthropicBlock = None,
    kms_block: KmsBlock = None,
    as_json: JsonObject = False,
) -> None:
    """Write Terraform that adopts the keys of one or all workspaces as they are.

    It reads the live keys with the blocks of the configured Prefect server and writes nothing
    but the files.
    """
    if (workspace_id is None) is not every:
        raise typer.BadParameter("name one workspace, or give --all")
    with connected():
        keys = asyncio.run(_read(anthropic_block, kms_block, workspace_id))
    module = render_module(keys)
    write_module(module, out, replace=replace)
    if as_json:
        managed = [{"key": key.name, "workspaces": key.workspaces} for key in keys]
        typer.echo(json.dumps({"folder": str(out), "files": sorted(module), "keys": managed}))
        return
    console = new_console()
    for key in keys:
        users = ", ".join(key.workspaces)
        console.print(printable(f"{key.name} ({users})"), soft_wrap=True)
    console.print(
        f"Wrote {printable(out)}. Next: terraform -chdir={printable(shlex.quote(str(out)))} init, "
        "then plan: it must show imports, and nothing to add or destroy.",
        soft_wrap=True,
    )


async def _read(
    anthropic_block: str | None, kms_block: str | None, workspace_id: str | None
) -> tuple[ManagedKey, ...]:
    anthropic_block, kms_block = await block_names(anthropic_block, kms_block)
    try:
        admin, kms = await admin_client(anthropic_block), await kms_client(kms_block)
        if workspace_id is None:
            return await read_all_keys(admin, kms)
        return await read_workspace_keys(admin, kms, workspace_id)
    finally:
        await close_clients()
