"""`cmek pending`, `approve`, `reject` and `sign`: the approvals of the configured server.

A plan is shown before anything is typed, and a run's steps are shown while it goes on.
"""

from __future__ import annotations

import getpass
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.exceptions import ObjectNotFound
from rich import box
from rich.console import Console
from rich.prompt import Confirm, Prompt
from rich.table import Table

from cli import approvals
from cli.approvals import ApprovalError, Others, PendingApproval, SigningKey, TamperedError
from cli.client import RunError, connected, every, find_run, run_url, task_runs
from cli.terminal import is_interactive, markdown, new_console, printable
from cmek.keys.history import shown_time
from cmek.outcomes import HAS_ITS_KEY
from tasks.runs import ONBOARDING

Decision = Literal["approve", "reject"]
_WAITING: Final = 3
"""Exit code when the run waits for another approval."""


@dataclass(frozen=True, slots=True)
class ResponseInput:
    """What the command line brought along; None is asked for in the terminal."""

    workspace_id: str | None = None
    plan_digest: str | None = None
    approver: str | None = None
    comment: str | None = None
    acknowledge_warnings: bool = False
    workspace_name: str | None = None


def show(pending: PendingApproval, console: Console) -> None:
    """Print the plan as the run describes it, until when a response counts, and what is signed."""
    request = pending.approval_request
    console.rule("Plan")
    console.print(markdown(pending.description))
    console.rule(f"a response counts for {shown_time(request.expires_at - datetime.now(UTC))}")
    if request.signatures:
        approvals.show_statement(request, console)


def build_response(
    pending: PendingApproval, decision: Decision, given: ResponseInput, console: Console
) -> dict[str, Any]:
    """Complete the response: from the command line, else by asking.

    Without a terminal everything must be given, the digest included, so that no script responds
    to a plan that nobody has read.

    Raises:
        ApprovalError: something is missing, or does not fit the approval request.
    """
    if is_interactive(console):
        given = _completed(pending, decision, given, console)
    required = (pending.workspace_field, "plan_digest", "approver", "comment")
    missing = [name for name in required if not getattr(given, name)]
    if missing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise ApprovalError(f"no terminal to ask in: give {options}")
    fields = {name: getattr(given, name) for name in required}
    wanted = {pending.workspace_field: pending.workspace, "plan_digest": pending.plan_digest}
    for name, value in wanted.items():
        if fields[name] != value:
            raise ApprovalError(
                f"{name} {printable(fields[name])!r}: run {pending.run.name} asks about {value!r};"
                " nothing was answered"
            )
    if pending.has_warnings:
        if decision == "approve" and not given.acknowledge_warnings:
            raise ApprovalError(
                "the plan has warnings, which an approval must accept (--acknowledge-warnings)"
            )
        fields["acknowledge_warnings"] = given.acknowledge_warnings
    return {"decision": decision} | fields


def _completed(
    pending: PendingApproval, decision: Decision, given: ResponseInput, console: Console
) -> ResponseInput:
    field = pending.workspace_field
    acknowledged = given.acknowledge_warnings
    if pending.has_warnings and decision == "approve" and not acknowledged:
        acknowledged = Confirm.ask(
            "Do you accept the warnings above?", console=console, default=False
        )
    verb = "reject the plan for it"
    if decision == "approve":
        new = field == "workspace_name"
        verb = "approve creating it with its key" if new else "approve attaching a key to it"
    # The workspace is typed, never taken over: it shows that the right plan was read.
    typed = getattr(given, field) or Prompt.ask(
        f"Type the {field.replace('_', ' ')} to {verb}", console=console
    )
    user = f"{getpass.getuser()}@{socket.gethostname()}"
    return replace(
        given,
        **{field: typed},
        plan_digest=given.plan_digest or pending.plan_digest,
        approver=given.approver or Prompt.ask("Your name", console=console, default=user),
        comment=given.comment or Prompt.ask("Comment", console=console),
        acknowledge_warnings=acknowledged,
    )


_POLL_SECONDS: Final = 0.3
_SUFFIX: Final = re.compile(r"-[0-9a-f]{1,3}$")


class Steps:
    """Prints every task of a run once it has ended; what was restored from a cache is no step."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID, console: Console) -> None:
        self._client = client
        self._run_id = run_id
        self._console = console
        self._shown: set[UUID] = set()

    def follow(self, *, seconds: float) -> FlowRun:
        """Show steps until the run waits for an approval or has ended.

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
        tries = f", {task.run_count} tries" if task.run_count > 1 else ""
        seconds = f"{task.total_run_time.total_seconds():.1f} s"
        self._console.print(f"  {mark} {_title(task)} [dim]{seconds}{tries}[/]", soft_wrap=True)
        if not state.is_completed() and state.message:
            self._console.print(f"    {printable(state.message)}")


def _title(task: TaskRun) -> str:
    return printable(_SUFFIX.sub("", task.name))


_FOLLOW_SECONDS: Final = 300.0

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
    table = Table(box=box.SIMPLE)
    table.add_column("run", no_wrap=True)
    for column in ("workspace", "plan", "waits", "expires in"):
        table.add_column(column, overflow="fold")
    now = datetime.now(UTC)
    with connected() as client:
        for run in _suspended_runs(client):
            try:
                pending = approvals.read_ask(client, run.id)
            except TamperedError:
                table.add_row(str(run.id), "?", "not the one of its digest: answer nothing")
                continue
            except ApprovalError:
                continue
            since = pending.run.state.timestamp if pending.run.state else now
            table.add_row(
                *map(printable, (run.id, pending.workspace, pending.plan_digest[:12])),
                shown_time(now - since),
                shown_time(pending.approval_request.expires_at - now),
            )
    new_console().print(table if table.row_count else "No run waits for an approval.")


def _suspended_runs(client: SyncPrefectClient) -> list[FlowRun]:
    try:
        found = client.read_deployment_by_name(ONBOARDING)
    except ObjectNotFound:
        raise RunError(f"deployment {ONBOARDING!r} is not on this server") from None
    wanted = {"deployment_id": {"any_": [found.id]}, "state": {"type": {"any_": ["PAUSED"]}}}
    only = FlowRunFilter.model_validate(wanted)
    return list(every(client.read_flow_runs, flow_run_filter=only))


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
    _respond(run, "approve", given, signing_key, others or [])


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
    _respond(run, "reject", given)


def sign_command(
    run: Run,
    *,
    approver: Annotated[str, typer.Option(help="Your name in the worker's allowed_signers.")],
    comment: Annotated[str, typer.Option(help="Why you approve.")],
    plan_digest: Annotated[str, typer.Option(help="Digest of the plan that you read.")],
    signing_key: SigningKey = None,
) -> None:
    """Print your signed approval, for whoever answers with `cmek approve --with FILE`."""
    with connected() as client:
        request = approvals.read_ask(client, find_run(client, run).id).approval_request
    approvals.show_statement(request, new_console(stderr=True))
    if plan_digest != request.digest:
        raise ApprovalError(f"the run asks about plan {request.digest}; nothing was signed")
    typer.echo(str(approvals.sign(request, approver, comment, signing_key)))


def _respond(
    name_or_id: str,
    decision: Decision,
    given: ResponseInput,
    signing_key: Path | None = None,
    others: Sequence[Path] = (),
) -> None:
    console = new_console()
    with connected() as client:
        pending = approvals.read_ask(client, find_run(client, name_or_id).id)
        request = pending.approval_request
        console.print(run_url(client, pending.run.id), soft_wrap=True)
        show(pending, console)
        fields = build_response(pending, decision, given, console)
        if request.signatures:
            fields[approvals.FIELD] = approvals.signed_field(request, fields, signing_key, others)
        approvals.answer(client, pending, fields)
        console.print(f"Answered: {decision}")
        state = Steps(client, pending.run.id, console).follow(seconds=_FOLLOW_SECONDS).state
    if state is None:
        return
    console.print(f"[bold]{state.name}[/] {printable(state.message or '')}")
    if state.is_paused():
        console.print("It asks again, for what has changed: read the new plan, then answer that.")
        raise typer.Exit(_WAITING)
    if decision == "approve" and state.name not in HAS_ITS_KEY:
        raise typer.Exit(1)
