"""Approval requests and responses: reading, responding, and signing with the approver's SSH key.

A stored request is trusted only if its plan fits its digest and its run. Any other text on the
server may have been written by somebody else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import httpx
import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import ValidationError

from cli.terminal import new_console, printable
from cmek.errors import CmekError, listed
from cmek.models import refusals
from cmek.onboarding.approval_request import ApprovalRequest
from cmek.signatures.signers import file_text
from cmek.signatures.statement import (
    NAMESPACE,
    SignedApproval,
    parse_signed,
    statement_for,
)
from cmek.signatures.verification import (
    CLOCK_SKEW,
    PROGRAM,
    BadSignatureError,
    Signed,
    approval_problems,
    excludes_requester,
    people_problems,
    signed_by,
)

FIELD: Final = "signed_approvals"
_KEYS: Final = ("id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk")
_KEYSET: Final = frozenset({"schema", "response"})
"""What Prefect's state of a suspended run names: where the form is, and where the response goes."""
_POLL_SECONDS: Final = 0.3

SigningKey = Annotated[
    Path | None,
    typer.Option(help="SSH key to sign with; a .pub file when an agent holds the private one."),
]
Others = Annotated[
    list[Path] | None,
    typer.Option("--with", help="File with another approver's `cmek sign` output; repeatable."),
]


class ApprovalError(CmekError):
    """There is nothing to respond to, or the response was refused: says why and what to do."""


class TamperedError(ApprovalError):
    """The stored request is not the run's own: do not respond to it."""


@dataclass(frozen=True)
class PendingApproval:
    """The approval request that a suspended run has stored."""

    run: FlowRun
    approval_request: ApprovalRequest
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
        """The digest of the plan that is to be approved."""
        return self.approval_request.digest

    @property
    def has_warnings(self) -> bool:
        """Whether an approval must accept warnings, other than those that the policy accepts."""
        return bool(self.approval_request.plan.to_acknowledge)


_STORED_WITHIN: Final = timedelta(minutes=1)
"""Prefect stores a form right after it has suspended the run."""


def read_pending(client: SyncPrefectClient, run_id: UUID) -> PendingApproval:
    """Read the run's approval request.

    Raises:
        TamperedError: What is stored does not fit its digest or its run.
        ApprovalError: the run does not wait for an approval, or has not stored its request yet.
    """
    run = client.read_flow_run(run_id)
    keyset = run.state.state_details.run_input_keyset if run.state else None
    if run.state is None or not run.state.is_paused() or not keyset:
        state = run.state.name if run.state else "in no state"
        raise ApprovalError(f"run {run.name} waits for no approval: it is {state}")
    # Prefect suspends the run before it stores the form. Who may write to the API can set a state
    # that names none.
    named = keyset.keys() >= _KEYSET
    stored = _stored(client, run, keyset["schema"]) if named else ""
    if stored is None:
        late = datetime.now(UTC) - run.state.timestamp > _STORED_WITHIN
        raise ApprovalError(
            f"run {run.name} is suspended, but its approval request is not stored"
            + (
                ": its process ended before that. Nothing was attached. Make the run end with "
                f"`prefect flow-run cancel {run.id}`, then Retry it"
                if late
                else " yet: try again"
            )
        )
    return PendingApproval(run, _checked_request(run, stored), keyset)


def _stored(client: SyncPrefectClient, run: FlowRun, key: str) -> str | None:
    try:
        return client.read_flow_run_input(run.id, key)
    except (ObjectNotFound, PrefectHTTPStatusError, httpx.InvalidURL):
        return None


def _checked_request(run: FlowRun, stored: str) -> ApprovalRequest:
    try:
        request = ApprovalRequest.model_validate(_carried(stored))
        fits = _fits(run, request)
    # not JSON, nested too deeply, no request, or a plan without a valid digest or key name
    except (ValueError, RecursionError, CmekError) as error:
        why = listed(refusals(error), 3, "; ") if isinstance(error, ValidationError) else error
        raise TamperedError(
            f"run {run.name}: its approval request holds no readable plan ({why}). What the server "
            "has stored is damaged or was changed: do not respond, and tell its administrator. "
            f"Then cancel the run (`prefect flow-run cancel {run.id}`) and start a new onboarding, "
            "which finds what exists already"
        ) from error
    hours = request.plan.request.approval_expires_hours
    if request.expires_at > datetime.now(UTC) + timedelta(hours=hours) + CLOCK_SKEW:
        raise TamperedError(
            f"run {run.name}: its approval request expires at {request.expires_at.isoformat()}, "
            f"later than the {hours} hours of its plan allow. Somebody may have tampered with the "
            "server, or this machine's clock is behind: neither sign nor respond before you know"
        )
    if not fits:
        raise TamperedError(
            f"run {run.name}: the plan in its approval request is not the one of its digest, of "
            "its request or of this run. Somebody may have tampered with the server: neither "
            "sign nor respond, and tell its administrator"
        )
    return request


def _carried(stored: str) -> Any:  # noqa: ANN401 - any JSON
    """The request that the form's schema carries; None when the form is not one of ours."""
    found = json.loads(stored)
    for name in ("properties", "plan_digest", "approval_request"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _fits(run: FlowRun, request: ApprovalRequest) -> bool:
    """Whether the digest covers everything that is shown, typed and signed."""
    plan = request.plan
    asked = plan.request
    return (
        (request.digest, request.run_id) == (plan.digest, str(run.id))
        and plan.workspace_id == asked.workspace_id
        and (plan.workspace_id is not None or plan.workspace_name == asked.create_workspace)
        and plan.key_name == str(asked.key_name)
        # not under the digest, but it decides which warnings must be acknowledged
        and plan.to_acknowledge == plan.bound.to_acknowledge
    )


def dead_end(client: SyncPrefectClient, pending: PendingApproval) -> str | None:
    """Why no response to this request can have an effect; None when one can."""
    if pending.approval_request.expires_at <= datetime.now(UTC):
        return "the approval request has expired; start a new onboarding"
    try:
        if pending.run.deployment_id is not None:
            client.read_deployment(pending.run.deployment_id)
            return None
    except ObjectNotFound:
        pass
    return (
        "its deployment was deleted or made anew meanwhile, so no worker can go on with it and "
        f"nothing will be attached. Cancel it (`prefect flow-run cancel {pending.run.id}`) and "
        "start a new onboarding, which finds what exists already"
    )


def wait_for_pending(
    client: SyncPrefectClient, run_id: UUID, *, after: PendingApproval | None = None, seconds: float
) -> PendingApproval:
    """Wait until the run has an approval request other than `after`.

    Raises:
        TamperedError: See `read_pending`.
        ApprovalError: the run ended without a (further) request, or `seconds` passed.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            pending = read_pending(client, run_id)
            if after is None or pending.keyset != after.keyset:
                return pending
            problem = f"run {pending.run.name} has no new approval request"
        except TamperedError:
            raise
        except ApprovalError as error:
            problem = str(error)
        state = client.read_flow_run(run_id).state
        if (state and state.is_final()) or time.monotonic() > deadline:
            raise ApprovalError(f"{problem} ({(state and state.message) or 'no message'})")
        time.sleep(_POLL_SECONDS)


def respond(client: SyncPrefectClient, pending: PendingApproval, fields: Mapping[str, Any]) -> None:
    """Send the approval response and make sure that it was taken.

    Raises:
        ApprovalError: refused; names the field as the server does. Or the response could have no
            effect, and was not sent.
    """
    if why := dead_end(client, pending):
        raise ApprovalError(f"run {pending.run.name}: {why}; nothing was answered")
    try:
        result = client.resume_flow_run(pending.run.id, run_input=dict(fields))
    except PrefectHTTPStatusError as error:
        # answers of the same moment: the server keeps the first
        if error.response.status_code != HTTPStatus.CONFLICT:
            raise
        status, reason = SetStateStatus.ABORT, "another answer came first"
    else:
        # The server responds with 200 also when it refuses: only `status` shows the result.
        status = result.status
        reason = getattr(result.details, "reason", None) or "no reason given"
    if status is SetStateStatus.ACCEPT:
        return
    # The client repeats a request whose reply was lost, and then reads that the run no longer
    # waits. The stored response shows whether ours was taken.
    stored = _stored(client, pending.run, pending.keyset["response"])
    if status is SetStateStatus.ABORT and stored and _says(stored, fields):
        return
    raise ApprovalError(f"run {pending.run.name}: the server refused the answer: {reason}")


def _says(stored: str, fields: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(stored) == dict(fields))
    except (ValueError, RecursionError):
        return False


def read_signed(
    request: ApprovalRequest, files: Sequence[Path], *, now: datetime
) -> tuple[Signed, ...]:
    """The signed approvals in files of other approvers, if the gate could accept each of them.

    Who is enrolled only the worker knows.

    Raises:
        ApprovalError: A file holds none, or one that would make the whole response invalid.
    """
    return tuple(one for path in files for one in _signed_in(path, request, now))


def _signed_in(path: Path, request: ApprovalRequest, now: datetime) -> list[Signed]:
    try:
        found = parse_signed(file_text(path.read_bytes()))
        return [_acceptable(one, request, now) for one in found]
    except (CmekError, ValueError, OSError) as error:
        raise ApprovalError(f"{path}: {error}; nothing was answered") from error


def _acceptable(one: SignedApproval, request: ApprovalRequest, now: datetime) -> Signed:
    flaws = approval_problems(request, one.statement, request.plan, decision="approve", now=now)
    if found := listed(flaws, 3, "; "):
        raise BadSignatureError(found)
    return signed_by(one)


def signed_field(
    request: ApprovalRequest,
    response: dict[str, Any],
    key: Path | None,
    others: Sequence[Signed],
) -> str:
    """The approver's own signed approval and those of others, for the form.

    Raises:
        ApprovalError: no key, the key did not sign, or they are not enough different people.
    """
    own = signed_by(sign(request, response["approver"], response["comment"], key))
    return field_of(request, [own, *others])


def field_of(request: ApprovalRequest, signed: Sequence[Signed]) -> str:
    """These signed approvals as they are, for the form.

    Raises:
        ApprovalError: They are not enough different people: the gate would refuse all of them.
    """
    asked = request.plan.request
    flaws = people_problems(
        signed,
        requester=asked.requested_by,
        requester_excluded=excludes_requester(asked, request.signatures),
        required=request.signatures,
    )
    if found := listed(flaws, 3, "; "):
        raise ApprovalError(f"{found}; nothing was answered")
    return "\n".join(str(one.approval) for one in signed)


def sign(request: ApprovalRequest, approver: str, comment: str, key: Path | None) -> SignedApproval:
    """Sign an approval of this request.

    Raises:
        ApprovalError: the statement can't be made, or OpenSSH did not sign it.
    """
    try:
        statement = statement_for(
            request, approver=approver, decision="approve", comment=comment, at=datetime.now(UTC)
        )
    except ValidationError as error:
        raise ApprovalError(f"it can't be signed: {'; '.join(refusals(error))}") from error
    return SignedApproval(statement, signature(statement.text, key or default_key()))


def signature(text: str, key: Path, namespace: str = NAMESPACE) -> str:
    """An SSH signature over a text; it is valid in this namespace only.

    Raises:
        ApprovalError: OpenSSH did not sign it, or is not installed.
    """
    path, program = str(key.expanduser()), _signing_program()
    command = [program, "-Y", "sign", "-n", namespace, "-f", path]
    # an askpass program, say, needs no login of Prefect's
    environment = {name: one for name, one in os.environ.items() if not name.startswith("PREFECT_")}
    terminal = _has_terminal()
    if terminal:
        # Standard input is the text, so with a display ssh-keygen would start an askpass program,
        # and without one it would take an empty passphrase. OpenSSH before 8.4 ignores this.
        environment.setdefault("SSH_ASKPASS_REQUIRE", "never")
    try:
        if _is_hardware_key(path):
            # ssh-keygen says so itself only if its standard error is a terminal
            said = f"{key} is a hardware key: touch it when it blinks"
            new_console(stderr=True).print(printable(said), soft_wrap=True)
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, env=environment, check=False
        )
    except OSError as error:
        raise ApprovalError(f"{program}: {error.strerror}; install OpenSSH's client") from error
    if done.returncode:
        # all lines: for a key file that others may read, the last one is "No private key found"
        lines = [line.strip("@ ") for line in done.stderr.decode(errors="replace").splitlines()]
        why = "; ".join(line for line in lines if line) or "no reason given"
        if "passphrase" in why and not terminal:
            why += (
                "; there is no terminal to ask for a passphrase in: add the key to an agent, and "
                "give its .pub file"
            )
        raise ApprovalError(f"{key} did not sign: {why}")
    return done.stdout.decode()


def _has_terminal() -> bool:
    """Whether ssh-keygen can ask the person in the terminal, wherever our own streams lead."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _signing_program() -> str:
    """The `ssh-keygen` that this person uses; only verification needs one that root has put there.

    Apple's, for one, knows no hardware keys, and people who have one install another.
    """
    return shutil.which("ssh-keygen") or PROGRAM


def _is_hardware_key(path: str) -> bool:
    """Whether the key is in a security key, which has to be touched; asks for no passphrase."""
    done = subprocess.run(
        [_signing_program(), "-l", "-f", path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    # such as `256 SHA256:… a comment (ED25519-SK)`
    return b"-SK" in done.stdout.rpartition(b"(")[2]


def default_key() -> Path:
    """The first of the usual SSH keys that this user has.

    Raises:
        ApprovalError: There is none.
    """
    home = Path.home() / ".ssh"
    found = next((home / name for name in _KEYS if (home / name).exists()), None)
    if found is None:
        raise ApprovalError(f"no SSH key in {home}: give --signing-key")
    return found
