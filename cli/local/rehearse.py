"""`cmek rehearse`: one onboarding on the local stack. `cmek up`: the local stack for a browser.

The result of a rehearsal is read from the sandbox and the server, not from what the run reports.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from cli import approvals
from cli.approvals import ApprovalError, PendingApproval
from cli.approve import ResponseInput, Steps, build_response, show
from cli.client import calling, local_async_client, local_client, run_url
from cli.local.sandbox import SandboxAddress
from cli.local.signed import APPROVER
from cli.local.stack import LocalStack, local_stack
from cli.options import JsonObjectOnly, check_workspace
from cli.terminal import is_interactive, new_console, printable, show_markdown
from cmek.anthropic.auth import AdminKey
from cmek.anthropic.client import AdminApi
from cmek.models import FrozenModel
from cmek.names import artifact_key
from cmek.outcomes import HAS_ITS_KEY
from tasks.discovery import start_onboarding

_REQUESTER: Final = "requester@example.com"
_ONBOARD_SECONDS: Final = 120.0
_TRIES: Final = 3


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
        ApprovalError: a response was not taken.
        NotStartedError: the run could not be started.
    """
    earlier = len(_calls(stack.sandbox))
    seconds: dict[str, float] = {}
    request = {
        "workspace": workspace_id,
        "project_id": stack.sandbox.project_id,
        "requested_by": _REQUESTER,
    }
    run = calling(local_async_client(stack.api_url), lambda api: start_onboarding(api, request))
    console.print(f"\nOnboarding [bold]{printable(workspace_id)}[/]")
    console.print(run_url(client, run.id), soft_wrap=True)
    run, pending = _respond_to_all(stack, client, run, console, seconds)
    calls = _calls(stack.sandbox)[earlier:]
    external_key_id, key_name = asyncio.run(_read_key(stack.sandbox, workspace_id))
    rehearsal = Rehearsal(
        workspace=workspace_id,
        key_name=key_name,
        external_key_id=external_key_id,
        run_state=(run.state.name if run.state else None) or "?",
        plan_digest=pending.plan_digest if pending else None,
        calls=dict(sorted(Counter(call["service"] for call in calls).items())),
        writes=sum(call["write"] for call in calls),
        seconds=seconds,
    )
    _print_end(client, run, rehearsal, console)
    if stack.gateway:
        _print_journal(stack.gateway, run, console)
    return rehearsal


def _calls(sandbox: SandboxAddress) -> list[dict[str, Any]]:
    found = httpx.get(
        f"{sandbox.http}/_sandbox/log",
        headers={"x-sandbox-token": sandbox.control_token},
        trust_env=False,
        timeout=10,
    )
    entries: list[dict[str, Any]] = found.raise_for_status().json()
    return entries


async def _read_key(sandbox: SandboxAddress, workspace_id: str) -> tuple[str | None, str | None]:
    """The workspace's external key and its key name, as the Admin API has them."""
    admin = AdminApi(sandbox.http, AdminKey(SecretStr(sandbox.admin_key)))
    try:
        external_key_id = (await admin.workspaces.retrieve(workspace_id)).external_key_id
        if external_key_id is None:
            return None, None
        return external_key_id, (await admin.external_keys.retrieve(external_key_id)).gcp_key_name
    finally:
        await admin.aclose()


def _respond_to_all(
    stack: LocalStack,
    client: SyncPrefectClient,
    run: FlowRun,
    console: Console,
    seconds: dict[str, float],
) -> tuple[FlowRun, PendingApproval | None]:
    """Respond to each approval request until the run has ended; the last one, if there was any."""
    steps = Steps(client, run.id, console)
    pending: PendingApproval | None = None
    phase = "until it waits"
    while True:
        started = time.monotonic()
        run = steps.follow(seconds=_ONBOARD_SECONDS)
        seconds[phase] = round(seconds.get(phase, 0) + time.monotonic() - started, 2)
        if run.state and run.state.is_final():
            return run, pending
        started = time.monotonic()
        pending = approvals.wait_for_pending(
            client, run.id, after=pending, seconds=_ONBOARD_SECONDS
        )
        console.rule("Plan", characters="-")
        show(pending.approval_request, console)
        console.rule("Approval", characters="-")
        _respond(client, pending, console, stack.approver_key)
        seconds["answering"] = round(time.monotonic() - started, 2)
        phase = "after the response"


def _respond(
    client: SyncPrefectClient, pending: PendingApproval, console: Console, key: Path | None
) -> None:
    given = ResponseInput(approver=APPROVER, comment="rehearsal")
    if not is_interactive(console):
        console.print("No terminal to ask in: approving, because this is the sandbox.")
        given = ResponseInput(
            **{pending.workspace_field: pending.workspace},
            plan_digest=pending.plan_digest,
            approver=APPROVER,
            comment="rehearsal",
            acknowledge_warnings=pending.has_warnings,
        )
    for left in reversed(range(_TRIES)):
        try:
            fields = build_response(pending, "approve", given, console)
            if key is not None:
                request = pending.approval_request
                fields[approvals.FIELD] = approvals.signed_field(request, fields, key, ())
                console.print(f"Signed by {APPROVER}, with the key that this rehearsal enrolled.")
            return approvals.respond(client, pending, fields)
        except ApprovalError as error:
            if not left:
                raise
            console.print(f"[red]{printable(error)}[/]")
    return None


def _print_end(
    client: SyncPrefectClient, run: FlowRun, rehearsal: Rehearsal, console: Console
) -> None:
    console.rule(printable(rehearsal.run_state), characters="-")
    if run.state is not None and run.state.message:
        console.print(printable(run.state.message), soft_wrap=True)
    if rehearsal.is_attached:
        _print_report(client, run, rehearsal.workspace, console)
    counts = ", ".join(f"{count} to {service}" for service, count in rehearsal.calls.items())
    console.print(f"Calls: {counts or 'none'}; {rehearsal.writes} of them writes")


def _print_journal(gateway: str, run: FlowRun, console: Console) -> None:
    """Print the gateway's journal of this run: a second record, besides the run's evidence."""
    found = httpx.get(f"{gateway}/gateway/journal/{run.id}", trust_env=False, timeout=10)
    for entry in found.raise_for_status().json()["entries"]:
        signed = f"{entry['outcome']}, signed by {', '.join(entry['approvers'])}"
        console.print(f"Gateway's journal: {printable(signed)}", soft_wrap=True)


def _print_report(
    client: SyncPrefectClient, run: FlowRun, workspace: str, console: Console
) -> None:
    """Print result and next steps of the report, with Terraform and evidence."""
    wanted = ArtifactFilter.model_validate(
        {
            "flow_run_id": {"any_": [run.id]},
            "key": {"any_": [artifact_key("onboarding", workspace)]},
        }
    )
    newest = ArtifactSort.CREATED_DESC
    for report in client.read_artifacts(artifact_filter=wanted, sort=newest, limit=1):
        console.rule("Report", characters="-")
        show_markdown(console, str(report.data).partition("\n## Attach\n")[0])


def rehearse_command(
    workspace: Annotated[
        str | None,
        typer.Option(
            callback=check_workspace,
            help="A sample workspace's id; by default the first fresh one.",
        ),
    ] = None,
    twice: Annotated[
        bool, typer.Option("--twice", help="Run again afterwards: that must make no write.")
    ] = False,
    signed: Annotated[
        bool,
        typer.Option(
            "--signed", help="The approver signs; a gateway alone holds the Admin API credential."
        ),
    ] = False,
    as_json: JsonObjectOnly = False,
) -> None:
    """Onboard a sample workspace on a private stack, then clean up.

    The stack is a Prefect server, a worker and the sandbox; nothing leaves this machine. The exit
    code is 0 only when the workspace has its key.
    """
    console = new_console(stderr=as_json)
    started = time.monotonic()
    gateway = ", a gateway" if signed else ""
    console.print(f"Starting a private Prefect server, a worker{gateway} and the sandbox …")
    with local_stack(signed=signed) as stack, local_client(stack.api_url) as client:
        phases = ", ".join(f"{name} {took:.1f} s" for name, took in stack.seconds.items())
        console.print(f"Ready: {printable(stack.ui_url)} [dim]({phases})[/]")
        chosen = workspace or stack.sandbox.workspace_in("fresh")
        first = rehearse(stack, client, chosen, console)
        repeated = twice and first.is_attached
        again = rehearse(stack, client, chosen, console) if repeated else None
    total = round(time.monotonic() - started, 2)
    console.print(f"[dim]{total:.0f} s in all; everything is cleaned up[/]")
    if as_json:
        result = first.model_dump() | {"again": again.model_dump()} if again else first.model_dump()
        result["seconds"] = stack.seconds | first.seconds | {"total": total}
        typer.echo(json.dumps(result))
    if not first.is_attached or (again and (not again.is_attached or again.writes)):
        raise typer.Exit(1)


_WATCH_SECONDS: Final = 0.5
_EXPECT: Final = {
    "fresh": "waits for your approval",
    "default": "is refused (unless allowed)",
    "archived": "is refused",
    "attached": "is refused; revalidation: at risk",
    "broken": "is refused; revalidation: broken",
}
"""By state of a sample: what an onboarding does, and what a revalidation says about its key."""


def up_command(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON when it is ready; the rest on error.")
    ] = False,
) -> None:
    """Run a private Prefect server, a worker and the sandbox until Ctrl-C.

    On Linux the server accepts connections of your own account only, so it needs no login.
    """
    console = new_console(stderr=as_json)
    console.print("Starting a private Prefect server, a worker and the sandbox …")
    with local_stack() as stack:
        _print_guide(stack, console)
        if as_json:
            typer.echo(json.dumps(_addresses(stack)))
        while True:
            stack.check()
            time.sleep(_WATCH_SECONDS)


def _addresses(stack: LocalStack) -> dict[str, Any]:
    """What a program needs to use the stack; it includes no secret."""
    shown = {"http", "grpc", "organization_id", "project_id", "workspaces"}
    return {
        "ui": stack.ui_url,
        "api": stack.api_url,
        "sandbox": stack.sandbox.model_dump(mode="json", include=shown),
        "logs": {name: str(log) for name, log in stack.logs.items()},
    }


def _print_guide(stack: LocalStack, console: Console) -> None:
    console.print(f"\nOpen [bold]{stack.ui_url}[/]")
    steps = Table.grid(padding=(0, 1))
    for number, step in enumerate(_tour(stack), start=1):
        steps.add_row(f"  {number}.", step)
    console.print(steps)
    console.print("Sample workspaces, and what an onboarding does:")
    for one in stack.sandbox.workspaces:
        console.print(f"  {printable(one.id)} ({printable(one.name)}, {one.state})", soft_wrap=True)
        console.print(f"    {_EXPECT.get(one.state, '')}", soft_wrap=True)
    console.print("The same in another terminal:")
    activate = shlex.quote(str(Path(sys.prefix) / "bin" / "activate"))
    console.print(f"  . {activate}; export PREFECT_API_URL={stack.api_url}", soft_wrap=True)
    console.print("  cmek onboard …   cmek pending   cmek approve RUN   cmek status")
    console.print(f"Sandbox: {stack.sandbox.http} (HTTP), {stack.sandbox.grpc} (gRPC)")
    for name, log in stack.logs.items():
        console.print(f"Log of the {name}: {log}", soft_wrap=True)
    console.print("\n[bold]Ctrl-C[/] stops and removes all of it.")


def _tour(stack: LocalStack) -> Iterator[str]:
    """What to click, and what to type."""
    workspace = printable(stack.sandbox.workspace_in("fresh"))
    yield (
        f"Deployments → [bold]onboard[/] → Run → Custom run: Workspace [bold]{workspace}[/], "
        f"Google Cloud project [bold]{stack.sandbox.project_id}[/], Requested by "
        "[bold]ada@example.com[/]; Submit"
    )
    yield f"Runs → [bold]onboard {workspace} · waiting for approval[/] → Artifacts: the plan"
    yield (
        "⋮ → Resume; respond as another person, [bold]grace@example.com[/]. "
        "Try a wrong workspace id first: it is refused, and the run goes on waiting"
    )
    yield "When it is Attached: Artifacts → the report, the evidence, the Terraform module"
    yield (
        "Deployments → [bold]scheduled[/] of [bold]revalidate-keys[/] → Run → Quick run: red, "
        "since a sample key is broken; the artifact [bold]cmek-fleet[/] says which, and the fix"
    )
