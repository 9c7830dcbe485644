"""`cmek up`: the local stack for a browser."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table

from console.local_stack import LocalStack, local_stack
from console.runs import DEPLOYMENT
from console.terminal import new_console, printable

_WATCH_SECONDS = 0.5


def up_command() -> None:
    """Run a private Prefect server, a worker and the sandbox until Ctrl-C."""
    console = new_console()
    console.print("Starting a private Prefect server, a worker and the sandbox …")
    with local_stack() as stack:
        _print_guide(stack, console)
        while True:
            stack.check()
            time.sleep(_WATCH_SECONDS)


def _print_guide(stack: LocalStack, console: Console) -> None:
    console.print(f"\nOpen [bold]{stack.ui_url}[/] and click:")
    console.print(f"  1. Deployments, {DEPLOYMENT}, Run, Custom run")
    console.print("  2. Fill in the form with a fresh workspace from below, the project")
    console.print(f"     [bold]{stack.sandbox.project_id}[/] and your e-mail address; submit")
    console.print("  3. The run, when it is Suspended: Resume (in the ⋮ menu of the new UI)")
    console.print("  4. Read the plan, answer as somebody else; then see the run's Artifacts")
    table = Table(title="Sample workspaces", title_justify="left")
    for column in ("id", "name", "state"):
        table.add_column(column, no_wrap=True)
    for workspace in stack.sandbox.workspaces:
        table.add_row(*map(printable, (workspace.id, workspace.name, workspace.state)))
    console.print(table)
    console.print("Or in another terminal:")
    console.print(f"  export PREFECT_API_URL={stack.api_url}")
    console.print("  cmek onboard …   cmek pending   cmek approve RUN")
    console.print(f"Sandbox: {stack.sandbox.http} (HTTP), {stack.sandbox.grpc} (gRPC)")
    for name, log in stack.logs.items():
        console.print(f"Log of the {name}: {log}")
    console.print("\n[bold]Ctrl-C[/] stops and removes all of it.")
