"""One onboarding on the local stack, from the start of the run to the attached key."""

from __future__ import annotations

import asyncio
import time

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from rich.console import Console

from cmek.models import FrozenModel
from cmek.outcomes import HAS_ITS_KEY
from console import approvals, dialogue, outcome
from console.approvals import Ask
from console.dialogue import Given
from console.local_stack import LocalStack
from console.outcome import Calls
from console.prefect_client import calling, local_async_client, run_url
from console.progress import Steps
from console.terminal import is_interactive, markdown, printable
from tasks.runs import start_onboarding

REQUESTER = "requester@example.com"
APPROVER = "approver@example.com"
_ONBOARD_SECONDS = 120.0
_TRIES = 3


class Rehearsal(FrozenModel):
    """How one run ended."""

    workspace: str
    key_name: str | None
    external_key_id: str | None
    run_state: str
    plan_digest: str | None
    calls: dict[str, int]
    """Calls to the sandbox by service."""
    writes: int
    seconds: dict[str, float]

    @property
    def is_attached(self) -> bool:
        """Whether the run ended with the key on the workspace."""
        return self.run_state in HAS_ITS_KEY and self.external_key_id is not None


def rehearse(
    stack: LocalStack, client: SyncPrefectClient, workspace_id: str, console: Console
) -> Rehearsal:
    """Onboard a workspace, asking for the approval in the terminal when there is one.

    Raises:
        TimeoutError: the run hangs.
        ApprovalError: an answer was not taken.
        NotStartedError: the run could not be started.
    """
    before = outcome.last_call(stack.sandbox)
    seconds: dict[str, float] = {}
    request = {
        "workspace_id": workspace_id,
        "project_id": stack.sandbox.project_id,
        "requested_by": REQUESTER,
    }
    run = calling(local_async_client(stack.api_url), lambda api: start_onboarding(api, request))
    console.print(f"\nOnboarding [bold]{printable(workspace_id)}[/]")
    console.print(run_url(client, run.id), soft_wrap=True)
    run, ask = _answer_all(client, run, console, seconds)
    calls = outcome.read_calls(stack.sandbox, after=before)
    attachment = asyncio.run(outcome.read_attachment(stack.sandbox, workspace_id))
    _print_end(client, run, calls, console)
    return Rehearsal(
        workspace=workspace_id,
        key_name=attachment.key_name if attachment else None,
        external_key_id=attachment.external_key_id if attachment else None,
        run_state=(run.state.name if run.state else None) or "?",
        plan_digest=ask.plan_digest if ask else None,
        calls=calls.by_service,
        writes=calls.writes,
        seconds=seconds,
    )


def _answer_all(
    client: SyncPrefectClient, run: FlowRun, console: Console, seconds: dict[str, float]
) -> tuple[FlowRun, Ask | None]:
    """Answer whatever the run asks until it has ended; the last ask, when there was one."""
    steps = Steps(client, run.id, console)
    ask: Ask | None = None
    phase = "until the ask"
    while True:
        started = time.monotonic()
        run = steps.follow(seconds=_ONBOARD_SECONDS)
        seconds[phase] = round(seconds.get(phase, 0) + time.monotonic() - started, 2)
        if run.state and run.state.is_final():
            return run, ask
        started = time.monotonic()
        ask = approvals.wait_for_ask(client, run.id, after=ask, seconds=_ONBOARD_SECONDS)
        dialogue.show(ask, console)
        _answer(client, ask, console)
        seconds["answering"] = round(time.monotonic() - started, 2)
        phase = "after the answer"


def _answer(client: SyncPrefectClient, ask: Ask, console: Console) -> None:
    given = Given(approver=APPROVER, comment="rehearsal")
    if not is_interactive(console):
        console.print("[yellow]No terminal to ask in: approving, because this is the sandbox.[/]")
        given = Given(ask.workspace, ask.plan_digest, APPROVER, "rehearsal", ask.has_warnings)
    for left in reversed(range(_TRIES)):
        try:
            approvals.answer(client, ask, dialogue.compose(ask, "approve", given, console))
        except approvals.ApprovalError as error:
            if not left:
                raise
            console.print(f"[red]{printable(error)}[/]")
        else:
            return


def _print_end(client: SyncPrefectClient, run: FlowRun, calls: Calls, console: Console) -> None:
    report = outcome.read_report(client, run)
    if report is not None:
        console.rule("Report")
        console.print(markdown(report))
    state = run.state
    console.rule(f"{state.name if state else '?'}")
    if state is not None and state.message:
        console.print(printable(state.message))
    counts = ", ".join(f"{count} to {service}" for service, count in calls.by_service.items())
    console.print(f"Calls: {counts or 'none'}; {calls.writes} of them writes")
