"""`cmek pending`, `cmek approve`, `cmek reject`: the approvals of the configured server."""

from __future__ import annotations

from typing import Annotated

import typer
from prefect.client.orchestration import SyncPrefectClient
from rich import box
from rich.console import Console
from rich.table import Table

from console import approvals, dialogue
from console.approvals import ApprovalError, Ask
from console.dialogue import Decision, Given
from console.prefect_client import connected, run_url
from console.progress import Steps
from console.runs import ATTACHED_STATES, find_run, suspended_runs
from console.terminal import new_console, printable, since, until

_FOLLOW_SECONDS = 300.0

Run = Annotated[str, typer.Argument(help="The run's id or name; `cmek pending` lists them.")]
WorkspaceId = Annotated[
    str | None, typer.Option(help="The workspace's id, as a confirmation; asked for if missing.")
]
PlanDigest = Annotated[
    str | None, typer.Option(help="Digest of the plan that you read; needed without a terminal.")
]
Person = Annotated[str | None, typer.Option(help="Your e-mail address; asked for if missing.")]
Comment = Annotated[str | None, typer.Option(help="Why; asked for if missing.")]


def pending_command() -> None:
    """List the runs that wait for an approval."""
    console = new_console()
    table = Table(box=box.SIMPLE)
    table.add_column("run", no_wrap=True)
    for column in ("workspace", "plan", "waits", "expires in"):
        table.add_column(column, overflow="fold")
    with connected() as client:
        for run in suspended_runs(client):
            try:
                ask = approvals.read_ask(client, run.id)
            except ApprovalError:
                continue
            asked_at = ask.run.state.timestamp if ask.run.state else None
            row = (ask.run.id, ask.workspace_id, ask.plan_digest[:12])
            table.add_row(*map(printable, row), since(asked_at), until(ask.expires_at))
    console.print(table if table.row_count else "No run waits for an approval.")


def approve_command(  # noqa: PLR0913 - a parameter is an option of the command
    run: Run,
    *,
    workspace_id: WorkspaceId = None,
    plan_digest: PlanDigest = None,
    approver: Person = None,
    comment: Comment = None,
    acknowledge_warnings: Annotated[
        bool, typer.Option("--acknowledge-warnings", help="You accept the plan's warnings.")
    ] = False,
) -> None:
    """Show a run's plan, approve it, and follow the run until it ends or asks again."""
    given = Given(workspace_id, plan_digest, approver, comment, acknowledge_warnings)
    _answer(run, "approve", given)


def reject_command(
    run: Run,
    *,
    workspace_id: WorkspaceId = None,
    plan_digest: PlanDigest = None,
    approver: Person = None,
    comment: Comment = None,
) -> None:
    """Show a run's plan and reject it; nothing is attached."""
    _answer(run, "reject", Given(workspace_id, plan_digest, approver, comment))


def _answer(name_or_id: str, decision: Decision, given: Given) -> None:
    console = new_console()
    with connected() as client:
        ask = approvals.read_ask(client, find_run(client, name_or_id).id)
        console.print(run_url(client, ask.run.id), soft_wrap=True)
        dialogue.show(ask, console)
        approvals.answer(client, ask, dialogue.compose(ask, decision, given, console))
        console.print(f"Answered: {decision}")
        _follow(client, ask, decision, console)


def _follow(client: SyncPrefectClient, ask: Ask, decision: Decision, console: Console) -> None:
    run = Steps(client, ask.run.id, console).follow(seconds=_FOLLOW_SECONDS)
    state = run.state
    if state is None:
        return
    console.print(f"[bold]{state.name}[/] {printable(state.message or '')}")
    if state.is_paused():
        console.print("It asks again, for what has changed: read the new plan, then answer that.")
        raise typer.Exit(1)
    if decision == "approve" and state.name not in ATTACHED_STATES:
        raise typer.Exit(1)
