"""`cmek pending`, `cmek approve`, `cmek reject`: the approvals of the configured server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from prefect.client.orchestration import SyncPrefectClient
from rich import box
from rich.console import Console
from rich.table import Table

from cmek.outcomes import HAS_ITS_KEY
from console import approvals, dialogue, signing
from console.approvals import ApprovalError, Ask, TamperedError
from console.dialogue import Decision, Given
from console.prefect_client import connected, run_url
from console.progress import Steps
from console.runs import find_run, suspended_runs
from console.signing import Others, SigningKey
from console.terminal import new_console, printable, since, until

_FOLLOW_SECONDS = 300.0

Run = Annotated[str, typer.Argument(help="The run's id or name; `cmek pending` lists them.")]
WorkspaceId = Annotated[
    str | None, typer.Option(help="The workspace's id, as a confirmation; asked for if missing.")
]
WorkspaceName = Annotated[
    str | None, typer.Option(help="The same for a new workspace, which has a name only.")
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
            except TamperedError:
                table.add_row(str(run.id), "?", "not the one of its digest: answer nothing")
                continue
            except ApprovalError:
                continue
            asked_at = ask.run.state.timestamp if ask.run.state else None
            row = (ask.run.id, ask.workspace, ask.plan_digest[:12])
            table.add_row(*map(printable, row), since(asked_at), until(ask.asked.expires_at))
    console.print(table if table.row_count else "No run waits for an approval.")


def approve_command(  # noqa: PLR0913 - a parameter is an option of the command
    run: Run,
    *,
    workspace_id: WorkspaceId = None,
    workspace_name: WorkspaceName = None,
    plan_digest: PlanDigest = None,
    approver: Person = None,
    comment: Comment = None,
    acknowledge_warnings: Annotated[
        bool, typer.Option("--acknowledge-warnings", help="You accept the plan's warnings.")
    ] = False,
    signing_key: SigningKey = None,
    others: Others = None,
) -> None:
    """Show a run's plan, approve it, and follow the run until it ends or asks again.

    Where the run wants signatures, yours is made with your SSH key.
    """
    given = Given(
        workspace_id, plan_digest, approver, comment, acknowledge_warnings, workspace_name
    )
    _answer(run, "approve", given, signing_key, others or [])


def reject_command(  # noqa: PLR0913 - a parameter is an option of the command
    run: Run,
    *,
    workspace_id: WorkspaceId = None,
    workspace_name: WorkspaceName = None,
    plan_digest: PlanDigest = None,
    approver: Person = None,
    comment: Comment = None,
) -> None:
    """Show a run's plan and reject it; nothing is attached."""
    given = Given(workspace_id, plan_digest, approver, comment, workspace_name=workspace_name)
    _answer(run, "reject", given)


def sign_command(
    run: Run,
    *,
    approver: Annotated[str, typer.Option(help="Your name in the worker's allowed_signers.")],
    comment: Annotated[str, typer.Option(help="Why you approve.")],
    plan_digest: Annotated[str, typer.Option(help="Digest of the plan that you read.")],
    signing_key: SigningKey = None,
) -> None:
    """Print your signed approval, for whoever answers with `cmek approve --with FILE`."""
    console = new_console(stderr=True)
    with connected() as client:
        asked = approvals.read_ask(client, find_run(client, run).id).asked
    signing.show(asked, console)
    if plan_digest != asked.digest:
        raise ApprovalError(f"the run asks about plan {asked.digest}; nothing was signed")
    typer.echo(str(signing.sign(asked, approver, comment, signing_key)))


def _answer(
    name_or_id: str,
    decision: Decision,
    given: Given,
    signing_key: Path | None = None,
    others: Sequence[Path] = (),
) -> None:
    console = new_console()
    with connected() as client:
        ask = approvals.read_ask(client, find_run(client, name_or_id).id)
        console.print(run_url(client, ask.run.id), soft_wrap=True)
        dialogue.show(ask, console)
        if ask.asked.signatures:
            signing.show(ask.asked, console)
        fields = dialogue.compose(ask, decision, given, console)
        if ask.asked.signatures:
            fields[signing.FIELD] = signing.signed_field(ask.asked, fields, signing_key, others)
        approvals.answer(client, ask, fields)
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
    if decision == "approve" and state.name not in HAS_ITS_KEY:
        raise typer.Exit(1)
