"""`cmek up`: the local stack for a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from console.local_stack import LocalStack, local_stack
from console.terminal import new_console, printable

_WATCH_SECONDS = 0.5
_EXPECT: Final = {
    "fresh": "waits for your approval",
    "default": "is refused (unless allowed)",
    "archived": "is refused",
    "attached": "is refused; daily: at risk",
    "broken": "is refused; daily: broken",
}
"""What an onboarding does, and how the daily look finds the key, by a sample's state."""


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
    console.print(f"\nOpen [bold]{stack.ui_url}[/]")
    steps = Table.grid(padding=(0, 1))
    for number, step in enumerate(_tour(stack), start=1):
        steps.add_row(f"  {number}.", step)
    console.print(steps)
    table = Table(title="Sample workspaces", title_justify="left", box=SIMPLE_HEAD)
    for column in ("id", "name", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("an onboarding")
    for one in stack.sandbox.workspaces:
        table.add_row(*map(printable, (one.id, one.name, one.state)), _EXPECT.get(one.state, ""))
    console.print(table)
    console.print("The same in another terminal:")
    console.print(f"  export PREFECT_API_URL={stack.api_url}", soft_wrap=True)
    console.print("  cmek onboard …   cmek pending   cmek approve RUN   cmek status")
    console.print(f"Sandbox: {stack.sandbox.http} (HTTP), {stack.sandbox.grpc} (gRPC)")
    for name, log in stack.logs.items():
        console.print(f"Log of the {name}: {log}", soft_wrap=True)
    console.print("\n[bold]Ctrl-C[/] stops and removes all of it.")


def _tour(stack: LocalStack) -> Iterator[str]:
    """What to click, with what to type where it is wanted."""
    workspace = printable(stack.sandbox.workspace_in("fresh"))
    yield (
        f"Deployments → [bold]onboard[/] → Run → Custom run: Workspace [bold]{workspace}[/], "
        f"Google Cloud project [bold]{stack.sandbox.project_id}[/], Requested by "
        "[bold]ada@example.com[/]; Submit"
    )
    yield (
        f"Runs → [bold]onboard {workspace}[/], until it is Suspended; its Artifacts hold the plan"
    )
    yield (
        "Resume (new UI: in the ⋮ menu), and answer as somebody else, [bold]grace@example.com[/]. "
        "Try a wrong workspace id first: it is refused, and the run goes on waiting"
    )
    yield "When it is Attached: Artifacts → the report, the evidence, the Terraform module"
    yield (
        "Deployments → [bold]daily[/] → Run → Quick run: red, since a sample key is broken; "
        "the artifact [bold]cmek-fleet[/] says which, and what rescues it"
    )
