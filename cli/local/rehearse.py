"""What a rehearsal has come to, read from the sandbox and the server rather than from the run.

One onboarding on the local stack, from the start of the run to the attached key.

`cmek rehearse`: the whole job on this machine, against the sandbox.

`cmek up`: the local stack for a browser.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Final

import httpx
import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from pydantic import SecretStr
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cli import approvals
from cli import approve as dialogue
from cli.approvals import PendingApproval
from cli.approve import ResponseInput, Steps
from cli.client import calling, local_async_client, local_client, run_url
from cli.local.sandbox import SandboxAddress
from cli.local.stack import LocalStack, local_stack
from cli.terminal import is_interactive, markdown, new_console, printable
from cmek.anthropic.auth import AdminKey
from cmek.anthropic.client import AdminApi
from cmek.models import FrozenModel
from cmek.outcomes import HAS_ITS_KEY
from tasks.runs import start_onboarding


class Attachment(FrozenModel):
    """The key under a workspace, as the Admin API tells it."""

    external_key_id: str
    key_name: str | None


class Calls(FrozenModel):
    """The calls that reached the sandbox."""

    by_service: dict[str, int]
    writes: int


def read_calls(sandbox: SandboxAddress, *, after: int = 0) -> Calls:
    """Count the calls with a number above `after`."""
    entries = _log(sandbox, after)
    return Calls(
        by_service=dict(sorted(Counter(entry["service"] for entry in entries).items())),
        writes=sum(1 for entry in entries if entry["write"]),
    )


def last_call(sandbox: SandboxAddress) -> int:
    """The number of the latest call, 0 before any."""
    return max((entry["number"] for entry in _log(sandbox, 0)), default=0)


async def read_attachment(sandbox: SandboxAddress, workspace_id: str) -> Attachment | None:
    """Read the workspace and its key; None when it has none.

    Raises:
        AdminApiError: the sandbox did not answer.
    """
    admin = AdminApi(sandbox.http, AdminKey(SecretStr(sandbox.admin_key)))
    try:
        workspace = await admin.workspaces.retrieve(workspace_id)
        if workspace.external_key_id is None:
            return None
        key = await admin.external_keys.retrieve(workspace.external_key_id)
        return Attachment(external_key_id=key.id, key_name=key.gcp_key_name)
    finally:
        await admin.aclose()


def read_report(client: SyncPrefectClient, run: FlowRun) -> str | None:
    """The run's latest Markdown artifact."""
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])),
        sort=ArtifactSort.CREATED_DESC,
        limit=20,
    )
    texts = [str(one.data) for one in found if one.type == "markdown"]
    return texts[0] if texts else None


def _log(sandbox: SandboxAddress, after: int) -> list[dict[str, Any]]:
    answer = httpx.get(
        f"{sandbox.http}/_sandbox/log", params={"after": after}, trust_env=False, timeout=10
    )
    entries: list[dict[str, Any]] = answer.raise_for_status().json()
    return entries


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
    before = last_call(stack.sandbox)
    seconds: dict[str, float] = {}
    request = {
        "workspace_id": workspace_id,
        "project_id": stack.sandbox.project_id,
        "requested_by": REQUESTER,
    }
    run = calling(local_async_client(stack.api_url), lambda api: start_onboarding(api, request))
    console.print(f"\nOnboarding [bold]{printable(workspace_id)}[/]")
    console.print(run_url(client, run.id), soft_wrap=True)
    run, approval_request = _answer_all(client, run, console, seconds)
    calls = read_calls(stack.sandbox, after=before)
    attachment = asyncio.run(read_attachment(stack.sandbox, workspace_id))
    _print_end(client, run, calls, console)
    return Rehearsal(
        workspace=workspace_id,
        key_name=attachment.key_name if attachment else None,
        external_key_id=attachment.external_key_id if attachment else None,
        run_state=(run.state.name if run.state else None) or "?",
        plan_digest=approval_request.plan_digest if approval_request else None,
        calls=calls.by_service,
        writes=calls.writes,
        seconds=seconds,
    )


def _answer_all(
    client: SyncPrefectClient, run: FlowRun, console: Console, seconds: dict[str, float]
) -> tuple[FlowRun, PendingApproval | None]:
    """Answer whatever the run asks until it has ended; the last ask, when there was one."""
    steps = Steps(client, run.id, console)
    approval_request: PendingApproval | None = None
    phase = "until the ask"
    while True:
        started = time.monotonic()
        run = steps.follow(seconds=_ONBOARD_SECONDS)
        seconds[phase] = round(seconds.get(phase, 0) + time.monotonic() - started, 2)
        if run.state and run.state.is_final():
            return run, approval_request
        started = time.monotonic()
        approval_request = approvals.wait_for_ask(
            client, run.id, after=approval_request, seconds=_ONBOARD_SECONDS
        )
        dialogue.show(approval_request, console)
        _answer(client, approval_request, console)
        seconds["answering"] = round(time.monotonic() - started, 2)
        phase = "after the answer"


def _answer(client: SyncPrefectClient, approval_request: PendingApproval, console: Console) -> None:
    given = ResponseInput(approver=APPROVER, comment="rehearsal")
    if not is_interactive(console):
        console.print("[yellow]No terminal to ask in: approving, because this is the sandbox.[/]")
        given = ResponseInput(
            approval_request.workspace,
            approval_request.plan_digest,
            APPROVER,
            "rehearsal",
            approval_request.has_warnings,
        )
    for left in reversed(range(_TRIES)):
        try:
            approvals.answer(
                client,
                approval_request,
                dialogue.build_response(approval_request, "approve", given, console),
            )
        except approvals.ApprovalError as error:
            if not left:
                raise
            console.print(f"[red]{printable(error)}[/]")
        else:
            return


def _print_end(client: SyncPrefectClient, run: FlowRun, calls: Calls, console: Console) -> None:
    report = read_report(client, run)
    if report is not None:
        console.rule("Report")
        console.print(markdown(report))
    state = run.state
    console.rule(f"{state.name if state else '?'}")
    if state is not None and state.message:
        console.print(printable(state.message))
    counts = ", ".join(f"{count} to {service}" for service, count in calls.by_service.items())
    console.print(f"Calls: {counts or 'none'}; {calls.writes} of them writes")


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


_WATCH_SECONDS = 0.5
_EXPECT: Final = {
    "fresh": "waits for your approval",
    "default": "is refused (unless allowed)",
    "archived": "is refused",
    "attached": "is refused; revalidation: at risk",
    "broken": "is refused; revalidation: broken",
}
"""What an onboarding does, and what a revalidation says about its key, by a sample's state."""


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
        "Deployments → [bold]scheduled[/] of [bold]revalidate-keys[/] → Run → Quick run: red, "
        "since a sample key is broken; the artifact [bold]cmek-fleet[/] says which, and the fix"
    )
