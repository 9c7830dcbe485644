"""Showing a plan to a person and asking for the answer.

A run's steps, one line each, while it goes.

`cmek pending`, `cmek approve`, `cmek reject`: the approvals of the configured server.
"""

from __future__ import annotations

import getpass
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, TaskRun
from rich import box
from rich.console import Console
from rich.prompt import Confirm, Prompt
from rich.table import Table

from cli import approvals
from cli import approvals as signing
from cli.approvals import ApprovalError, Others, PendingApproval, SigningKey, TamperedError
from cli.client import connected, find_run, run_url, suspended_runs, task_runs
from cli.terminal import is_interactive, markdown, new_console, printable, since, until
from cmek.outcomes import HAS_ITS_KEY

Decision = Literal["approve", "reject"]


@dataclass(frozen=True, slots=True)
class ResponseInput:
    """What the command line brought along; None is asked for in the terminal."""

    workspace_id: str | None = None
    plan_digest: str | None = None
    approver: str | None = None
    comment: str | None = None
    acknowledge_warnings: bool = False
    workspace_name: str | None = None


def show(approval_request: PendingApproval, console: Console) -> None:
    """Print the plan as the run describes it, and until when an answer counts."""
    console.rule("Plan")
    console.print(markdown(approval_request.description))
    console.rule(f"an answer counts for {until(approval_request.approval_request.expires_at)}")


def build_response(
    approval_request: PendingApproval, decision: Decision, given: ResponseInput, console: Console
) -> dict[str, Any]:
    """Complete the answer: from the command line, else by asking.

    Without a terminal everything must be given, the digest included, so that no script answers
    for a plan that nobody has read.

    Raises:
        ApprovalError: something is missing, or what was given is not what the run asks about.
    """
    if is_interactive(console):
        given = _asked(approval_request, decision, given, console)
    missing = [name for name in _required(approval_request) if not getattr(given, name)]
    if missing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise ApprovalError(f"no terminal to ask in: give {options}")
    for name, asked in (
        (approval_request.workspace_field, approval_request.workspace),
        ("plan_digest", approval_request.plan_digest),
    ):
        _must_match(approval_request, name, getattr(given, name), asked)
    return _fields(approval_request, decision, given)


def _required(approval_request: PendingApproval) -> tuple[str, ...]:
    return (approval_request.workspace_field, "plan_digest", "approver", "comment")


def _asked(
    approval_request: PendingApproval, decision: Decision, given: ResponseInput, console: Console
) -> ResponseInput:
    acknowledged = given.acknowledge_warnings
    if approval_request.has_warnings and decision == "approve" and not acknowledged:
        acknowledged = Confirm.ask(
            "Do you accept the warnings above?", console=console, default=False
        )
    typed = getattr(given, approval_request.workspace_field) or _typed(
        approval_request, decision, console
    )
    return replace(
        given,
        **{approval_request.workspace_field: typed},
        plan_digest=given.plan_digest or approval_request.plan_digest,
        approver=given.approver or Prompt.ask("Your name", console=console, default=local_user()),
        comment=given.comment or Prompt.ask("Comment", console=console),
        acknowledge_warnings=acknowledged,
    )


def _typed(approval_request: PendingApproval, decision: Decision, console: Console) -> str:
    what = approval_request.workspace_field.replace("_", " ")
    verb = "reject the plan for it"
    if decision == "approve":
        new = approval_request.workspace_field == "workspace_name"
        verb = "approve creating it with its key" if new else "approve attaching a key to it"
    return Prompt.ask(f"Type the {what} to {verb}", console=console)


def _must_match(approval_request: PendingApproval, name: str, value: str, asked: str) -> None:
    if value != asked:
        raise ApprovalError(
            f"{name} {printable(value)!r}: run {approval_request.run.name} asks about {asked!r};"
            " nothing was answered"
        )


def _fields(
    approval_request: PendingApproval, decision: Decision, given: ResponseInput
) -> dict[str, Any]:
    fields: dict[str, Any] = {"decision": decision}
    fields |= {name: getattr(given, name) for name in _required(approval_request)}
    if approval_request.has_warnings:
        if decision == "approve" and not given.acknowledge_warnings:
            raise ApprovalError(
                "the plan has warnings, which an approval must accept (--acknowledge-warnings)"
            )
        fields["acknowledge_warnings"] = given.acknowledge_warnings
    return fields


def local_user() -> str:
    """Who runs this command, in the shape of an e-mail address; a claim like any other."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


_POLL_SECONDS = 0.3
_SUFFIX = re.compile(r"-[0-9a-f]{1,3}$")


class Steps:
    """Prints every task of a run once it has ended; what was restored from a cache is no step."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID, console: Console) -> None:
        self._client = client
        self._run_id = run_id
        self._console = console
        self._shown: set[UUID] = set()

    def follow(self, *, seconds: float) -> FlowRun:
        """Show steps until the run waits for an answer or has ended.

        Raises:
            TimeoutError: neither happened in time; names the state and the step.
        """
        deadline = time.monotonic() + seconds
        with self._console.status("waiting for the worker") as status:
            while True:
                run = self._client.read_flow_run(self._run_id)
                going = self._show_ended()
                if run.state and (run.state.is_paused() or run.state.is_final()):
                    self._show_ended()
                    return run
                if time.monotonic() > deadline:
                    state = run.state.name if run.state else "in no state"
                    raise TimeoutError(f"run {run.name} is {state} after {seconds:.0f} s: {going}")
                status.update(going or "working")
                time.sleep(_POLL_SECONDS)

    def _show_ended(self) -> str:
        going = []
        for task in task_runs(self._client, self._run_id):
            if task.state is None or not task.state.is_final():
                going.append(_title(task))
            elif task.id not in self._shown:
                self._shown.add(task.id)
                self._show(task)
        return ", ".join(going)

    def _show(self, task: TaskRun) -> None:
        state = task.state
        if state is None or state.name == "Cached":
            return
        mark = "[green]✓[/]" if state.is_completed() else "[red]✗[/]"
        seconds = task.total_run_time.total_seconds()
        tries = f", {task.run_count} tries" if task.run_count > 1 else ""
        self._console.print(
            f"  {mark} {_title(task)} [dim]{seconds:.1f} s{tries}[/]", soft_wrap=True
        )
        if not state.is_completed() and state.message:
            self._console.print(f"    {printable(state.message)}")


def _title(task: TaskRun) -> str:
    return printable(_SUFFIX.sub("", task.name))


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
                approval_request = approvals.read_ask(client, run.id)
            except TamperedError:
                table.add_row(str(run.id), "?", "not the one of its digest: answer nothing")
                continue
            except ApprovalError:
                continue
            requested_at = (
                approval_request.run.state.timestamp if approval_request.run.state else None
            )
            row = (
                approval_request.run.id,
                approval_request.workspace,
                approval_request.plan_digest[:12],
            )
            table.add_row(
                *map(printable, row),
                since(requested_at),
                until(approval_request.approval_request.expires_at),
            )
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
    given = ResponseInput(
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
    given = ResponseInput(
        workspace_id, plan_digest, approver, comment, workspace_name=workspace_name
    )
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
        asked = approvals.read_ask(client, find_run(client, run).id).approval_request
    signing.show(asked, console)
    if plan_digest != asked.digest:
        raise ApprovalError(f"the run asks about plan {asked.digest}; nothing was signed")
    typer.echo(str(signing.sign(asked, approver, comment, signing_key)))


def _answer(
    name_or_id: str,
    decision: Decision,
    given: ResponseInput,
    signing_key: Path | None = None,
    others: Sequence[Path] = (),
) -> None:
    console = new_console()
    with connected() as client:
        approval_request = approvals.read_ask(client, find_run(client, name_or_id).id)
        console.print(run_url(client, approval_request.run.id), soft_wrap=True)
        show(approval_request, console)
        if approval_request.approval_request.signatures:
            signing.show(approval_request.approval_request, console)
        fields = build_response(approval_request, decision, given, console)
        if approval_request.approval_request.signatures:
            fields[signing.FIELD] = signing.signed_field(
                approval_request.approval_request, fields, signing_key, others
            )
        approvals.answer(client, approval_request, fields)
        console.print(f"Answered: {decision}")
        _follow(client, approval_request, decision, console)


def _follow(
    client: SyncPrefectClient,
    approval_request: PendingApproval,
    decision: Decision,
    console: Console,
) -> None:
    run = Steps(client, approval_request.run.id, console).follow(seconds=_FOLLOW_SECONDS)
    state = run.state
    if state is None:
        return
    console.print(f"[bold]{state.name}[/] {printable(state.message or '')}")
    if state.is_paused():
        console.print("It asks again, for what has changed: read the new plan, then answer that.")
        raise typer.Exit(1)
    if decision == "approve" and state.name not in HAS_ITS_KEY:
        raise typer.Exit(1)
