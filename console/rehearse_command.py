"""`cmek rehearse`: the whole job on this machine, against the sandbox."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console

from console.local_stack import LocalStack, local_stack
from console.prefect_client import local_client
from console.rehearsal import Rehearsal, rehearse
from console.terminal import new_console, printable


def rehearse_command(
    workspace: Annotated[
        str | None, typer.Option(help="A sample workspace's id; by default the first fresh one.")
    ] = None,
    twice: Annotated[
        bool, typer.Option("--twice", help="Run again afterwards: that must make no write.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output at the end.")
    ] = False,
) -> None:
    """Onboard a sample workspace on a private server, worker and sandbox, then clean up.

    Nothing leaves this machine. The exit code is 0 only when the workspace has its key.
    """
    console = new_console(stderr=as_json)
    started = time.monotonic()
    console.print("Starting a private Prefect server, a worker and the sandbox …")
    with local_stack() as stack, local_client(stack.api_url) as client:
        _print_started(stack, console)
        chosen = workspace or stack.sandbox.workspace_in("fresh")
        first = rehearse(stack, client, chosen, console)
        runs = [first]
        if twice and first.is_attached:
            runs.append(rehearse(stack, client, chosen, console))
    result = _result(runs, stack.seconds)
    result["seconds"]["total"] = round(time.monotonic() - started, 2)
    console.print(f"[dim]{result['seconds']['total']:.0f} s in all; everything is cleaned up[/]")
    if as_json:
        typer.echo(json.dumps(result))
    if not _succeeded(runs):
        raise typer.Exit(1)


def _print_started(stack: LocalStack, console: Console) -> None:
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stack.seconds.items())
    console.print(f"Ready: {printable(stack.ui_url)} [dim]({phases})[/]")


def _result(runs: list[Rehearsal], phases: dict[str, float]) -> dict[str, Any]:
    result = runs[0].model_dump()
    result["seconds"] = phases | runs[0].seconds
    if len(runs) > 1:
        result["again"] = runs[1].model_dump()
    return result


def _succeeded(runs: list[Rehearsal]) -> bool:
    return all(run.is_attached for run in runs) and all(run.writes == 0 for run in runs[1:])
