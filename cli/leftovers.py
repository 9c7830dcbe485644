"""`cmek leftovers`: what onboarding made and nothing uses, with the commands that take it back."""

from __future__ import annotations

import asyncio
import json

import typer

from cli.client import connected
from cli.options import AnthropicBlock, JsonArray, KmsBlock
from cli.terminal import new_console, printable
from cmek.errors import CmekError
from cmek.evidence.leftovers import Leftover
from tasks.clients import block_names, close_clients
from tasks.leftovers import LeftoversFound, read_leftovers


def leftovers_command(
    *,
    as_json: JsonArray = False,
    anthropic_block: AnthropicBlock = None,
    kms_block: KmsBlock = None,
) -> None:
    """List what onboarding made and nothing uses, and how to take it back; deletes nothing.

    The records of the configured Prefect server say what was made, live reads what is left.
    """
    with connected():
        read = asyncio.run(_read(anthropic_block, kms_block))
    found = read.rows
    if as_json:
        rows = [one.model_dump(mode="json") for one in found]
        typer.echo(json.dumps(rows, ensure_ascii=False))
    else:
        _print(found)
    if read.warning:
        raise UnreadableRecordsError(read.warning)


class UnreadableRecordsError(CmekError):
    """What is listed may not be all; the message names the records that do not verify."""


def _print(found: tuple[Leftover, ...]) -> None:
    console = new_console()
    for one in found:
        for line in _lines(one):
            console.print(printable(line), soft_wrap=True)
    console.print(
        f"{len(found)} things are left over. Run the commands in this order, or leave all as it "
        "is: the next onboarding uses it."
        if found
        else "Nothing is left over."
    )


def _lines(one: Leftover) -> list[str]:
    head = (
        f"{one.kind} {one.resource}",
        f"  made {one.since:%Y-%m-%d %H:%M %Z} by run {one.run} for {one.subject}, {one.approval}",
    )
    remark = (f"  {one.remark}",) if one.remark else ()
    return [*head, *remark, *(f"    {command}" for command in one.take_back), ""]


async def _read(anthropic_block: str | None, kms_block: str | None) -> LeftoversFound:
    try:
        return await read_leftovers(*await block_names(anthropic_block, kms_block))
    finally:
        await close_clients()
