"""The approval that a suspended run waits for: read the question, give an answer.

The form carries the approval request; its digest and its run are checked.

Signing an answer with the approver's own SSH key or agent.

The plan that is shown for signing is the one that the digest is of: what else the server says about
it is a text like any other.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import ValidationError
from rich.console import Console

from cli.terminal import markdown
from cmek.errors import CmekError
from cmek.onboarding.approval import ApprovalRequest as AskedPlan
from cmek.onboarding.reports import facts_table
from cmek.signatures.statement import (
    NAMESPACE,
    SignedApproval,
    Statement,
    UnreadableApprovalError,
    parse_signed,
    statement_for,
)
from cmek.signatures.verification import PROGRAM

_POLL_SECONDS = 0.3


class ApprovalError(CmekError):
    """There is nothing to answer, or the server refused the answer: says why and what to do."""


class TamperedError(ApprovalError):
    """The stored question is not what the run has asked: answer nothing."""


@dataclass(frozen=True)
class PendingApproval:
    """A question that a suspended run has stored: what it asks, and its text."""

    run: FlowRun
    approval_request: AskedPlan
    description: str
    keyset: Mapping[str, str]

    @property
    def workspace_field(self) -> str:
        """What must be typed about the workspace: its id, or the name of a new one."""
        return "workspace_id" if self.approval_request.plan.workspace_id else "workspace_name"

    @property
    def workspace(self) -> str:
        """The workspace that is to be attached, or the name of the one to be created."""
        return self.approval_request.plan.workspace_id or self.approval_request.plan.workspace_name

    @property
    def plan_digest(self) -> str:
        """The digest of the plan that the answer is about."""
        return self.approval_request.digest

    @property
    def has_warnings(self) -> bool:
        """Whether the answer must acknowledge warnings."""
        return bool(self.approval_request.plan.warnings)


def read_ask(client: SyncPrefectClient, run_id: UUID) -> PendingApproval:
    """Read what the run asks.

    Raises:
        TamperedError: What is stored does not fit its digest or its run.
        ApprovalError: the run does not wait for an answer, or has not stored its question yet.
    """
    run = client.read_flow_run(run_id)
    keyset = run.state.state_details.run_input_keyset if run.state else None
    if run.state is None or not run.state.is_paused() or not keyset:
        state = run.state.name if run.state else "in no state"
        raise ApprovalError(f"run {run.name} waits for no approval: it is {state}")
    try:
        schema = json.loads(client.read_flow_run_input(run.id, keyset["schema"]))
        description = json.loads(client.read_flow_run_input(run.id, keyset["description"]))
    except (ObjectNotFound, PrefectHTTPStatusError) as error:
        raise ApprovalError(
            f"run {run.name} is suspended, but its question is not stored yet: try again"
        ) from error
    return PendingApproval(run, read_approval_request(run, schema), description, keyset)


def read_approval_request(run: FlowRun, schema: Mapping[str, Any]) -> AskedPlan:
    """The ask that the form of this run carries, its plan checked against the digest.

    Raises:
        TamperedError: None that can be read, another plan than the digest's, or another run's.
    """
    field = schema.get("properties", {}).get("plan_digest", {})
    try:
        asked = AskedPlan.model_validate(field.get("approval_request"))
    except ValidationError as error:
        raise TamperedError(f"run {run.name}: its question carries no plan to answer") from error
    if (asked.digest, asked.run_id) != (asked.plan.digest, str(run.id)):
        raise TamperedError(
            f"run {run.name}: the plan in its question is not the one of its digest or not of "
            "this run. Somebody may have tampered with the server: sign and answer nothing, and "
            "tell its administrator"
        )
    return asked


def wait_for_ask(
    client: SyncPrefectClient, run_id: UUID, *, after: PendingApproval | None = None, seconds: float
) -> PendingApproval:
    """Wait until the run asks, and something else than `after`.

    Raises:
        TamperedError: See `read_ask`.
        ApprovalError: the run ended without a (further) question, or `seconds` passed.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            approval_request = read_ask(client, run_id)
            if after is None or approval_request.keyset != after.keyset:
                return approval_request
            problem = f"run {approval_request.run.name} has asked nothing new"
        except TamperedError:
            raise
        except ApprovalError as error:
            problem = str(error)
        run = client.read_flow_run(run_id)
        if (run.state and run.state.is_final()) or time.monotonic() > deadline:
            message = run.state.message if run.state else None
            raise ApprovalError(f"{problem} ({message or 'no message'})")
        time.sleep(_POLL_SECONDS)


def answer(
    client: SyncPrefectClient, approval_request: PendingApproval, fields: Mapping[str, Any]
) -> None:
    """Give the answer and make sure that it was taken.

    The server answers 200 also when it refuses, so its `status` is what counts. After a lost
    answer the client asks again and hears that the run no longer waits; then the stored answer
    tells whether it is ours.

    Raises:
        ApprovalError: refused; names the field as the server does.
    """
    result = client.resume_flow_run(approval_request.run.id, run_input=dict(fields))
    if result.status is SetStateStatus.ACCEPT:
        return
    if result.status is SetStateStatus.ABORT and _stored(client, approval_request) == dict(fields):
        return
    reason = getattr(result.details, "reason", None) or "no reason given"
    raise ApprovalError(f"run {approval_request.run.name}: the server refused the answer: {reason}")


def _stored(client: SyncPrefectClient, approval_request: PendingApproval) -> dict[str, Any] | None:
    try:
        stored: dict[str, Any] = json.loads(
            client.read_flow_run_input(approval_request.run.id, approval_request.keyset["response"])
        )
    except (ObjectNotFound, PrefectHTTPStatusError):
        return None
    return stored


FIELD: Final = "signed_approvals"
_KEYS: Final = ("id_ed25519", "id_ecdsa", "id_rsa")

SigningKey = Annotated[
    Path | None,
    typer.Option(help="SSH key to sign with; a .pub file when an agent holds the private one."),
]
Others = Annotated[
    list[Path] | None,
    typer.Option("--with", help="File with another approver's `cmek sign` output; repeatable."),
]


def show(asked: AskedPlan, console: Console) -> None:
    """Print what is about to be signed."""
    console.rule("What you sign, worked out from its digest")
    console.print(markdown(facts_table(asked.plan)))
    console.print(f"plan digest {asked.plan.digest}", soft_wrap=True)


def signed_field(
    approval_request: AskedPlan, answer: dict[str, Any], key: Path | None, others: Sequence[Path]
) -> str:
    """The answer's own signed approval and those of others, for the form.

    Nobody has to sign a rejection.

    Raises:
        ApprovalError: no key, the key did not sign, or a file holds no signed approval.
    """
    if answer["decision"] == "reject":
        return "-"
    read = [str(one) for path in others for one in _of_others(path)]
    return "\n".join(
        [str(sign(approval_request, answer["approver"], answer["comment"], key)), *read]
    )


def sign(asked: AskedPlan, approver: str, comment: str, key: Path | None) -> SignedApproval:
    """Sign an approval of this ask.

    Raises:
        ApprovalError: the statement can't be made, or OpenSSH did not sign it.
    """
    try:
        statement = statement_for(
            asked, approver=approver, decision="approve", comment=comment, at=datetime.now(UTC)
        )
    except ValidationError as error:
        raise ApprovalError(f"approver or comment can't be signed: {error}") from error
    return SignedApproval(statement, _signature(statement, key or _default_key()))


def _signature(statement: Statement, key: Path) -> str:
    try:
        done = subprocess.run(
            [PROGRAM, "-Y", "sign", "-n", NAMESPACE, "-f", str(key.expanduser())],
            input=statement.text.encode(),
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise ApprovalError(f"{PROGRAM}: {error.strerror}; install OpenSSH's client") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ApprovalError(f"{key} did not sign: {said[-1] if said else 'no reason given'}")
    return done.stdout.decode()


def _default_key() -> Path:
    home = Path.home() / ".ssh"
    found = next((home / name for name in _KEYS if (home / name).exists()), None)
    if found is None:
        raise ApprovalError(f"no SSH key in {home}: give --signing-key")
    return found


def _of_others(path: Path) -> tuple[SignedApproval, ...]:
    try:
        return parse_signed(path.read_text())
    except (UnreadableApprovalError, UnicodeDecodeError) as error:
        raise ApprovalError(f"{path}: {error}") from error
