"""`cmek pending`, `approve`, `reject` and `sign`: the approvals of the configured server.

A plan is shown before anything is typed, and a run's steps are shown while it continues.
"""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun, TaskRun
from rich.console import Console
from rich.prompt import Confirm, Prompt
from rich.text import Text

from cli import approvals
from cli.approvals import ApprovalError, Others, PendingApproval, SigningKey
from cli.client import WAITING, connected, every, find_run, run_facts, run_url, task_runs
from cli.options import JsonArray, JsonObjectOnly
from cli.terminal import is_interactive, new_console, printable
from cmek.keys.history import shown_time
from cmek.names import EMAIL
from cmek.onboarding.approval_page import Line, plan_view
from cmek.onboarding.approval_request import ApprovalRequest, same_identity
from cmek.onboarding.plan import possible_titles
from cmek.outcomes import HAS_ITS_KEY
from cmek.plain_text import plain, shortened
from cmek.signatures.verification import Signed
from tasks.runs import ONBOARDING

Decision = Literal["approve", "reject"]
_INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as a shell gives it."""
_REASONS, _LONG = 8, 320
"""Reasons of the server that are shown, and characters of each."""


@dataclass(frozen=True, slots=True)
class ResponseInput:
    """The values from the command line; one that is None is asked for in the terminal."""

    workspace_id: str | None = None
    plan_digest: str | None = None
    approver: str | None = None
    comment: str | None = None
    acknowledge_warnings: bool = False
    workspace_name: str | None = None


def show(request: ApprovalRequest, console: Console) -> None:
    """Print the plan that the digest covers, in the order of the page in the browser.

    Somebody could have changed everything else that the server has stored. What a person needs of
    it is marked as the server's statement; evidence and remedies of warnings are left out.
    """
    from cmek.keys.prerequisites import CATALOGUE  # noqa: PLC0415 - Google's libraries

    ours = possible_titles(CATALOGUE)
    strange = {one for one in request.plan.warning_titles if one not in ours}
    bound = {"plan": request.plan.bound, "reapproval_reasons": ()}
    view = plan_view(request.model_copy(update=bound))
    left = shown_time(request.expires_at - datetime.now(UTC))
    # first, so that the most important part comes last and stays on the screen
    if rest := view.in_full():
        _say(console, f"More of the plan than fits below, {len(rest)} lines", "More of the plan")
        _say_lines(console, rest, strange)
    _say(console, view.headline, view.headline)
    _say(
        console,
        f"{view.sentence(_quoted, _quoted)} This can never be undone.",
        "This can never be undone.",
    )
    _say_why_again(console, "You are asked again", request.reapproval_reasons)
    for title, lines, more in view.first_screen():
        _say(console, title, title)
        _say_lines(console, lines, strange)
        if more:
            _say(console, f"• and {more} more, listed above all of this", indent=2)
    if request.plan.warnings:
        _say(
            console,
            "What was read about each of these, and what ends it, is in the plan's artifact in "
            "Prefect; nothing verifies that text.",
        )
    _say(console, "Facts", "Facts")
    for name, value in (*view.facts, *view.request):
        _say(console, f"{name}: {value}", name, indent=2)
    _say(console, f"Plan digest: {request.digest}", "Plan digest")
    until = f"{request.expires_at:%Y-%m-%d %H:%M %Z}"
    _say(console, f"The Prefect server says that it counts for {left}, until {until}.")


def _say_lines(console: Console, lines: Sequence[Line], strange: Collection[str]) -> None:
    for line in lines:
        about = f": {line.text}" if line.text else ""
        whose = "(a title that is not known here) " if line.title in strange else ""
        _say(console, f"• {whose}{line.title.removesuffix('.')}{about}", line.title, indent=2)


def _quoted(text: object) -> str:
    """Outside text within a sentence of ours, in quotation marks that it can't close."""
    return '"' + plain(text).replace('"', "'") + '"'


def _say_why_again(console: Console, what: str, reasons: Sequence[str]) -> None:
    """Print the worker's reasons. They come from the server and are not verified."""
    if reasons:
        _say(console, f"{what}; the Prefect server says why, not verified:", what)
    for reason in reasons[:_REASONS]:
        _say(console, f"• {shortened(reason, _LONG)}", indent=2)
    if len(reasons) > _REASONS:
        _say(console, f"• and {len(reasons) - _REASONS} more", indent=2)


def _say(console: Console, text: str, bold: str = "", *, indent: int = 0) -> None:
    """Print outside text, wrapped only between words, so that names can be compared and copied."""
    before = " " * indent
    lines = textwrap.wrap(
        plain(text),
        max(console.width - 1, 40),
        initial_indent=before,
        subsequent_indent=before + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        shown = Text(line)
        shown.highlight_words([plain(bold)] if bold else [], "bold")
        console.print(shown, overflow="ignore", crop=False)


def build_response(
    pending: PendingApproval, decision: Decision, given: ResponseInput, console: Console
) -> dict[str, Any]:
    """Complete the response from the command line, and by asking in the terminal.

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
    _check_approver(pending, decision, fields["approver"])
    if pending.has_warnings and decision == "approve":
        if not given.acknowledge_warnings:
            raise ApprovalError(
                "the plan has warnings, which an approval must accept (--acknowledge-warnings)"
            )
        fields["acknowledge_warnings"] = True
    return {"decision": decision} | fields


def _check_approver(pending: PendingApproval, decision: Decision, approver: str) -> None:
    """Refuse, before it is sent, what the form or the gate would certainly refuse."""
    request = pending.approval_request.plan.request
    if re.fullmatch(EMAIL, approver) is None:
        raise ApprovalError(
            f"approver {approver!r} is no e-mail address like grace@example.com; nothing was "
            "answered"
        )
    if (
        decision == "approve"
        and request.four_eyes
        and same_identity(approver, request.requested_by)
    ):
        raise ApprovalError(
            f"four eyes: {approver} is the requester; another person must approve. Nothing was "
            "answered"
        )


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
    # The workspace must be typed, not confirmed: that shows that the right plan was read.
    question = f"Type the {field.replace('_', ' ')} to {verb}"
    return replace(
        given,
        **{field: _given_or_asked(getattr(given, field), question, console)},
        plan_digest=given.plan_digest or pending.plan_digest,
        approver=_given_or_asked(given.approver, "Your e-mail address", console),
        comment=_given_or_asked(given.comment, "Comment", console),
        acknowledge_warnings=acknowledged,
    )


def _given_or_asked(given: str | None, question: str, console: Console) -> str:
    """The value from the command line, or what the person types; an empty line is asked again."""
    while not given:
        given = Prompt.ask(question, console=console)
    return given


_POLL_SECONDS: Final = 0.3


class Steps:
    """Prints each guide step of a run once it has ended, and every step that failed."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID, console: Console) -> None:
        self._client = client
        self._run_id = run_id
        self._console = console
        # steps that have ended before are not shown again
        self._shown = {
            task.id for task in task_runs(client, run_id) if task.state and task.state.is_final()
        }

    def follow(self, *, seconds: float) -> FlowRun:
        """Show steps until the run waits for an approval or has ended.

        Raises:
            TimeoutError: neither happened in time; names the state and the step.
            Exit: The person has pressed Ctrl-C.
        """
        try:
            return self._follow(time.monotonic() + seconds, seconds)
        except KeyboardInterrupt:
            self._console.print(
                f"No longer followed; the run goes on: {run_url(self._client, self._run_id)}",
                soft_wrap=True,
            )
            raise typer.Exit(_INTERRUPTED) from None

    def _follow(self, deadline: float, seconds: float) -> FlowRun:
        with self._console.status("waiting for the worker") as status:
            while True:
                run = self._client.read_flow_run(self._run_id)
                going = self._show_ended()
                if run.state and (run.state.is_paused() or run.state.is_final()):
                    self._show_ended()
                    return run
                if time.monotonic() > deadline:
                    state = run.state.name if run.state else "in no state"
                    raise TimeoutError(
                        f"run {run.name} is {state} after {seconds:.0f} s ({going or 'no step'}),"
                        f" and goes on without this command: {run_url(self._client, run.id)}"
                    )
                status.update(going or "working")
                time.sleep(_POLL_SECONDS)

    def _show_ended(self) -> str:
        going = []
        for task in task_runs(self._client, self._run_id):
            if task.state is None or not task.state.is_final():
                going.append(printable(task.name))
            elif task.id not in self._shown:
                self._shown.add(task.id)
                self._show(task)
        return ", ".join(going)

    def _show(self, task: TaskRun) -> None:
        state = task.state
        if state is None or not (task.name[:1].isdigit() or state.is_failed()):
            return
        mark = "[green]✓[/]" if state.is_completed() else "[red]✗[/]"
        tries = f", {task.run_count} tries" if task.run_count > 1 else ""
        seconds = f"{task.total_run_time.total_seconds():.1f} s"
        self._console.print(
            f"  {mark} {printable(task.name)} [dim]{seconds}{tries}[/]", soft_wrap=True
        )
        if not state.is_completed() and state.message:
            self._console.print(f"    {printable(state.message)}", soft_wrap=True)


_FOLLOW_SECONDS: Final = 300.0
_NEXT_SECONDS: Final = 30.0

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Its id or name; `cmek pending` lists them.")
]
ConfirmedId = Annotated[
    str | None, typer.Option(help="The workspace's id, as a confirmation; asked for if missing.")
]
ConfirmedName = Annotated[
    str | None, typer.Option(help="The same for a new workspace, which has a name only.")
]
PlanDigest = Annotated[
    str | None, typer.Option(help="Digest of the plan that you read; needed without a terminal.")
]
Person = Annotated[str | None, typer.Option(help="Your e-mail address; asked for if missing.")]
Comment = Annotated[str | None, typer.Option(help="Why; asked for if missing.")]


def pending_command(
    *,
    as_json: JsonArray = False,
) -> None:
    """List the runs that wait for an approval, and how to respond."""
    console = new_console()
    with connected() as client:
        found = [_PendingRow.of(client, run) for run in _suspended_runs(client)]
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in found], default=_as_data))
        return
    if not found:
        console.print("No run waits for an approval.")
    for row in found:
        row.show(console)


def _as_data(value: object) -> str:
    """For JSON: a time in ISO 8601, an id as text."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


@dataclass(frozen=True, slots=True)
class _PendingRow:
    """A run that waits, for people and as JSON."""

    run_id: UUID
    name: str
    workspace: str | None = None
    requested_by: str | None = None
    plan_digest: str | None = None
    requested_at: datetime | None = None
    expires_at: datetime | None = None
    problem: str | None = None
    """Why it must not, or need not, be answered."""

    @classmethod
    def of(cls, client: SyncPrefectClient, run: FlowRun) -> Self:
        try:
            pending = approvals.read_pending(client, run.id)
        except ApprovalError as error:
            return cls(run.id, run.name, problem=str(error))
        request = pending.approval_request
        return cls(
            run.id,
            run.name,
            pending.workspace,
            request.plan.request.requested_by,
            request.digest,
            request.requested_at,
            request.expires_at,
            approvals.dead_end(client, pending),
        )

    def show(self, console: Console) -> None:
        """Print without cutting anything, so that ids and commands can be copied."""
        console.print(f"[bold]{printable(self.name)}[/]", soft_wrap=True)
        if self.requested_at and self.expires_at:
            now = datetime.now(UTC)
            console.print(
                f"  {printable(self.workspace)}, requested by {printable(self.requested_by)} "
                f"{shown_time(now - self.requested_at)} ago, expires in "
                f"{shown_time(self.expires_at - now)}, plan {(self.plan_digest or '')[:12]}",
                soft_wrap=True,
            )
        if self.problem:
            console.print(f"  [yellow]{printable(self.problem)}[/]", soft_wrap=True)
        else:
            console.print(f"  cmek approve {self.run_id}", soft_wrap=True)


def _suspended_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Suspended onboardings, found by flow: a deployment that was made again has no older runs."""
    only = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}})
    flow = FlowFilter.model_validate({"name": {"any_": [ONBOARDING.partition("/")[0]]}})
    return list(every(client.read_flow_runs, flow_run_filter=only, flow_filter=flow))


def approve_command(  # noqa: PLR0913 - a parameter is an option of the command
    run: Run,
    *,
    workspace_id: ConfirmedId = None,
    workspace_name: ConfirmedName = None,
    plan_digest: PlanDigest = None,
    approver: Person = None,
    comment: Comment = None,
    acknowledge_warnings: Annotated[
        bool, typer.Option("--acknowledge-warnings", help="You accept the plan's warnings.")
    ] = False,
    signing_key: SigningKey = None,
    others: Others = None,
    submit_only: Annotated[
        bool,
        typer.Option(
            "--submit-only",
            help="Send the approvals of --with as they are; yours is not added. The first one's "
            "approver and comment are those of the response.",
        ),
    ] = False,
    as_json: JsonObjectOnly = False,
) -> None:
    """Show a run's plan, approve it, and follow it until its end or next request.

    Where the run wants signatures, yours is made with your SSH key, unless you only submit those of
    others. Exit code 3: it waits again.
    """
    if submit_only and not others:
        raise typer.BadParameter("--submit-only sends the approvals of --with: give --with FILE")
    if submit_only and (signing_key or approver or comment):
        raise typer.BadParameter(
            "--submit-only adds no approval of yours: leave out --signing-key, --approver and "
            "--comment, which are in the signed statements"
        )
    given = ResponseInput(
        workspace_id, plan_digest, approver, comment, acknowledge_warnings, workspace_name
    )
    signing = Signing(signing_key, tuple(others or ()), submit_only=submit_only)
    _respond(run, "approve", given, signing, as_json=as_json)


def reject_command(  # noqa: PLR0913 - a parameter is an option of the command
    run: Run,
    *,
    workspace_id: ConfirmedId = None,
    workspace_name: ConfirmedName = None,
    plan_digest: PlanDigest = None,
    approver: Person = None,
    comment: Comment = None,
    as_json: JsonObjectOnly = False,
) -> None:
    """Show a run's plan and reject it; nothing is attached."""
    given = ResponseInput(
        workspace_id, plan_digest, approver, comment, workspace_name=workspace_name
    )
    _respond(run, "reject", given, as_json=as_json)


def sign_command(  # noqa: PLR0913 - a parameter is an option of the command
    run: Run,
    *,
    approver: Annotated[str, typer.Option(help="Your name in the worker's allowed_signers.")],
    comment: Annotated[str, typer.Option(help="Why you approve.")],
    plan_digest: Annotated[str, typer.Option(help="Digest of the plan that you read.")],
    signing_key: SigningKey = None,
    as_json: JsonObjectOnly = False,
) -> None:
    """Print your signed approval, for whoever answers with `cmek approve --with FILE`."""
    with connected() as client:
        request = approvals.read_pending(client, find_run(client, run).id).approval_request
    show(request, new_console(stderr=True))
    if plan_digest != request.digest:
        raise ApprovalError(f"the run asks about plan {request.digest}; nothing was signed")
    signed = str(approvals.sign(request, approver, comment, signing_key))
    if as_json:
        facts = {"run_id": request.run_id, "plan_digest": plan_digest, "approver": approver}
        signed = json.dumps(facts | {"signed_approval": signed}, ensure_ascii=False)
    typer.echo(signed)


@dataclass(frozen=True, slots=True)
class Signing:
    """How the response is to be signed, from the command line."""

    key: Path | None = None
    others: tuple[Path, ...] = ()
    submit_only: bool = False

    def read(self, pending: PendingApproval) -> tuple[Signed, ...]:
        """The others' approvals; also refuse, before anything is typed, what can't be signed.

        Raises:
            ApprovalError: The run asks for no signature, a file is refused, or there is no key.
        """
        request = pending.approval_request
        if not request.signatures and (self.key or self.others):
            raise ApprovalError(
                f"run {pending.run.name} asks for no signature, so --signing-key and --with would "
                "count for nothing; nothing was answered. Leave them out, or have the platform "
                "team require signatures (policy `signatures`, or /etc/cmek on the worker)"
            )
        signed = approvals.read_signed(request, self.others, now=datetime.now(UTC))
        if self.submit_only:
            approvals.field_of(request, signed)
        elif request.signatures and self.key is None:
            try:
                approvals.default_key()
            except ApprovalError as error:
                hint = ", or --submit-only to add no approval of yours" if self.others else ""
                raise ApprovalError(f"{error}{hint}") from error
        return signed

    def field(
        self, pending: PendingApproval, fields: dict[str, Any], signed: Sequence[Signed]
    ) -> str:
        """What goes into the form's field."""
        request = pending.approval_request
        if self.submit_only:
            return approvals.field_of(request, signed)
        return approvals.signed_field(request, fields, self.key, signed)


def _respond(
    name_or_id: str,
    decision: Decision,
    given: ResponseInput,
    signing: Signing | None = None,
    *,
    as_json: bool,
) -> None:
    console = new_console(stderr=as_json)
    with connected() as client:
        pending = approvals.read_pending(client, find_run(client, name_or_id).id)
        if why := approvals.dead_end(client, pending):
            raise ApprovalError(f"run {pending.run.name}: {why}")
        signed = signing.read(pending) if signing else ()
        show(pending.approval_request, console)
        if signing and signing.submit_only:
            given = _stated(given, signed, console)
        try:
            fields = build_response(pending, decision, given, console)
        except (KeyboardInterrupt, EOFError):
            raise ApprovalError(
                f"nothing was answered: run {pending.run.name} goes on waiting"
            ) from None
        if signing and pending.approval_request.signatures:
            fields[approvals.FIELD] = signing.field(pending, fields, signed)
        # made before the response, so that it shows all steps that come after it
        steps = Steps(client, pending.run.id, console)
        approvals.respond(client, pending, fields)
        run = steps.follow(seconds=_FOLLOW_SECONDS)
        if run.state is None:
            return
        console.print(
            f"[bold]{printable(run.state.name)}[/] {printable(run.state.message or '')}",
            soft_wrap=True,
        )
        again = _why_again(client, pending) if run.state.is_paused() else ()
        _say_what_next(client, run, again, console)
        if as_json:
            said = {"workspace": pending.workspace, "plan_digest": pending.plan_digest}
            said |= {"decision": decision, "approver": fields["approver"]}
            facts = run_facts(client, run) | said | {"reapproval_reasons": again}
            typer.echo(json.dumps(facts, ensure_ascii=False))
    if run.state.is_paused():
        raise typer.Exit(WAITING)
    if decision == "approve" and run.state.name not in HAS_ITS_KEY:
        raise typer.Exit(1)


def _stated(given: ResponseInput, signed: Sequence[Signed], console: Console) -> ResponseInput:
    """The response as the first statement has it: the gate wants form and statement to agree."""
    _say(console, "These approvals are sent as they are; yours is not added:")
    for one in signed:
        _say(console, f"• {one}: {_quoted(one.approval.statement.comment)}", indent=2)
    first = signed[0].approval.statement
    # each signature acknowledges the plan's warnings, which were compared
    return replace(given, approver=first.approver, comment=first.comment, acknowledge_warnings=True)


def _why_again(client: SyncPrefectClient, before: PendingApproval) -> tuple[str, ...]:
    again = approvals.wait_for_pending(client, before.run.id, after=before, seconds=_NEXT_SECONDS)
    return again.approval_request.reapproval_reasons


def _say_what_next(
    client: SyncPrefectClient, run: FlowRun, again: Sequence[str], console: Console
) -> None:
    if run.state is None or not run.state.is_paused():
        console.print(run_url(client, run.id), soft_wrap=True)
        return
    _say_why_again(console, "Nothing was attached", again)
    console.print(f"It waits for another approval: cmek approve {run.id}", soft_wrap=True)
