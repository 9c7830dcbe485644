"""`cmek terraform`: the live keys of workspaces as a Terraform module."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cmek.terraform.module import (
    ManagedKey,
    read_all_keys,
    read_workspace_keys,
    render_module,
    write_module,
)
from console.prefect_client import connected
from console.terminal import new_console, printable
from tasks.clients import admin_client, close_clients, kms_client


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
