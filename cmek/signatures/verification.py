"""Whether signed statements are valid: OpenSSH verifies signatures, this module has the rules."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from cmek.errors import CmekError
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse, same_identity
from cmek.onboarding.plan import Plan
from cmek.onboarding.request import OnboardingRequest
from cmek.signatures.signers import KRL, Signers, SignersRefusedError, Touch, ssh_strings
from cmek.signatures.statement import NAMESPACE, SignedApproval, Statement, signed_list

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far an approver's clock may be from the worker's."""
PROGRAM: Final = "/usr/bin/ssh-keygen"
"""By its full path: PATH could name another program first."""
_SECONDS: Final = 10.0
_GOOD: Final = re.compile(
    r'Good "cmek-approval" signature (?:for \S+ )?with (\S+) key (SHA256:\S+)'
)
_LIMIT: Final = re.compile(r"key (has expired|is not yet valid|is not permitted for use)[^\n]*")


_PRESENT, _VERIFIED = 0x01, 0x04
"""Flags in a hardware key's signature: touched; PIN or fingerprint given. Source: PROTOCOL.u2f."""
SHORTEST_RSA: Final = 2048
"""Bits; OpenSSH itself accepts 1,024."""


class BadSignatureError(CmekError):
    """This signature is not valid; the message says why."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed approval and the key of its signature, enrolled or not."""

    approval: SignedApproval
    key_type: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.approval.statement.approver} ({self.key_type} key {self.fingerprint})"


@dataclass(frozen=True, slots=True)
class Verified(Signed):
    """A signed approval whose signature is that of an enrolled approver."""


@dataclass(frozen=True, slots=True)
class _CommandOutput:
    code: int
    text: str


def signed_by(approval: SignedApproval) -> Signed:
    """Find the key of a signature, for who sends it on and has no list of approvers.

    Raises:
        BadSignatureError: The statement was altered, or the signature is for another purpose.
        SignersRefusedError: OpenSSH is missing or hangs.
    """
    with tempfile.TemporaryDirectory(prefix="cmek-") as scratch:
        signature = Path(scratch) / "signature"
        signature.write_text(approval.signature, encoding="utf-8")
        return Signed(approval, *_key_of(approval, signature))


def _key_of(approval: SignedApproval, signature: Path) -> tuple[str, str]:
    """Type and fingerprint of the key that made the signature in this file."""
    by = ("-n", NAMESPACE, "-s", str(signature))
    found = _run(["-Y", "check-novalidate", *by], approval.statement.text.encode())
    good = _GOOD.match(found.text)
    if found.code or not good:
        raise BadSignatureError(
            f"the signature in the name of {approval.statement.approver} does not fit its text or "
            f"its purpose ({NAMESPACE}): {found.text or 'no output of OpenSSH'}"
        )
    return good[1], good[2]


async def verify(approval: SignedApproval, signers: Signers, *, at: datetime) -> Verified:
    """Check that the statement was signed by the approver that it names.

    Args:
        approval: Statement and signature.
        signers: The enrolled approvers.
        at: The time at which the key must be valid according to `allowed_signers`.

    Raises:
        BadSignatureError: The statement was altered, the signature is for another purpose, or the
            key is another one, revoked, unknown, expired or not valid yet.
        SignersRefusedError: OpenSSH is missing or hangs, or can't read the revocation list.
    """
    return await asyncio.to_thread(_verify, approval, signers, at)


def _verify(approval: SignedApproval, signers: Signers, at: datetime) -> Verified:
    approver = approval.statement.approver
    message = approval.statement.text.encode()
    time = f"verify-time={at.astimezone(UTC):%Y%m%d%H%M%S}"
    with tempfile.TemporaryDirectory(prefix="cmek-") as scratch:
        # copies of the content that was checked: the files could be replaced meanwhile
        signature, allowed, listed = (Path(scratch) / one for one in ("signature", "allowed", "no"))
        signature.write_text(approval.signature, encoding="utf-8")
        allowed.write_text(signers.allowed_lines, encoding="utf-8")
        listed.write_bytes(signers.revoked_content)
        known = ("-f", str(allowed), "-I", approver, "-O", time)
        revoked = ("-r", str(listed)) if signers.revoked else ()
        by = ("-n", NAMESPACE, "-s", str(signature))
        # first without the approvers: the output names the key, enrolled or not, for the messages
        key_type, fingerprint = _key_of(approval, signature)
        key = f"{key_type} key {fingerprint}"
        if weak := _weakness_of_signature(approval.signature, signers.touch):
            raise BadSignatureError(f"{key} of {approver}: {weak}")
        output = _run(["-Y", "verify", *known, *by, *revoked], message)
        # the text too, not only the exit code: it must name this approver
        valid = f'Good "{NAMESPACE}" signature for {approver} '
        if output.code == 0 and output.text.startswith(valid):
            return Verified(approval, key_type, fingerprint)
        # valid without the list: the key is revoked, or the list itself can't be read
        if revoked and _run(["-Y", "verify", *known, *by], message).code == 0:
            read = _run(["-Q", "-l", "-f", str(listed)], b"")
            if signers.revoked_content.startswith(KRL) and read.code:
                raise SignersRefusedError(f"{signers.revoked} can't be read: {read.text}")
            raise BadSignatureError(f"{key} of {approver} is revoked by {signers.revoked}")
    limit = _LIMIT.search(output.text)
    why = (
        limit[0].removeprefix("key ") if limit else f"is not enrolled for them in {signers.allowed}"
    )
    raise BadSignatureError(f"{key}, used in the name of {approver}, {why}")


def _weakness_of_signature(armored: str, touch: Touch) -> str | None:
    """Why a genuine signature is refused: its RSA key is too short, or nobody touched the key.

    `ssh-keygen` does not check these. Source: OpenSSH's PROTOCOL.sshsig and PROTOCOL.u2f.
    """
    blob = b64decode("".join(armored.split("-----")[2].split()))
    # after the magic text and a version of 4 bytes: public key, …, signature
    parts = list(ssh_strings(blob[len(b"SSHSIG") + 4 :]))
    public, signed = parts[0], parts[-1]
    kind, *numbers = ssh_strings(public)
    if kind.startswith(b"ssh-rsa"):
        bits = int.from_bytes(numbers[2 if b"cert" in kind else 1]).bit_length()
        if bits < SHORTEST_RSA:
            return f"an RSA key needs {SHORTEST_RSA} bits, this one has {bits}: enrol another key"
    if b"sk-" not in kind or touch == "optional":
        return None
    name, signature = islice(ssh_strings(signed), 2)
    flags = signed[8 + len(name) + len(signature)]  # after two strings, each with 4 bytes of length
    if not flags & _PRESENT:
        return "nobody touched the hardware key for it (it is a no-touch key): enrol one that asks"
    if touch == "verified" and not flags & _VERIFIED:
        return "the hardware key asked for no PIN or fingerprint (make it with verify-required)"
    return None


def _run(arguments: Sequence[str], message: bytes) -> _CommandOutput:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program; arguments are never a shell's
            [PROGRAM, *arguments],
            input=message,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # UTC, since times in `allowed_signers` are; C, since the output is parsed
            env={"TZ": "UTC", "LC_ALL": "C"},
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SignersRefusedError(
            f"{PROGRAM} is needed to verify signatures: {error}; install OpenSSH's client"
        ) from error
    return _CommandOutput(done.returncode, done.stdout.decode(errors="replace").strip())


@dataclass(frozen=True, slots=True)
class Signatures:
    """The result of verifying the signatures of one response."""

    required: int
    """How many must sign; 0: a typed approval is enough on this worker."""
    verified: tuple[Verified, ...] = ()
    problems: tuple[str, ...] = ()
    """Why other signatures of the response are not valid."""


def excludes_requester(request: OnboardingRequest, required: int) -> bool:
    """Whether the requester's own signature is refused, where so many signatures are required."""
    return request.four_eyes or required > 1


def signature_problems(
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    live: Plan,
    signatures: Signatures,
    *,
    now: datetime,
) -> tuple[str, ...]:
    """Why the response is not an approval by these signatures; empty when it is.

    One invalid signature makes the response invalid, even together with enough valid ones: a person
    should find out where it came from.
    """
    signed = [one.approval.statement for one in signatures.verified]
    found = [
        *signatures.problems,
        *(
            flaw
            for statement in signed
            for flaw in approval_problems(
                approval_request, statement, live, decision=response.decision, now=now
            )
        ),
        *people_problems(
            signatures.verified,
            requester=live.request.requested_by,
            requester_excluded=excludes_requester(live.request, signatures.required),
            required=signatures.required,
        ),
    ]
    # approver and comment of the form are shown and recorded: they must not differ from the signed
    given = (response.approver, response.comment)
    if signed and given not in {(one.approver, one.comment) for one in signed}:
        found.append("no statement has the approver and the comment of the answer itself")
    return tuple(found)


def approval_problems(
    approval_request: ApprovalRequest,
    signed: Statement,
    live: Plan,
    *,
    decision: Literal["approve", "reject"],
    now: datetime,
) -> Iterator[str]:
    """Why a statement is not valid as a response to this request; each makes all invalid."""
    # against the live plan, not the recorded one: what is attached must be what was signed
    compared = {
        "run": (signed.run_id, approval_request.run_id),
        "approval request": (signed.approval_request, approval_request.key),
        "approval request (its nonce is not this one's)": (signed.nonce, approval_request.nonce),
        "plan": (signed.plan_digest, live.digest),
        "workspace": (
            (signed.workspace_id, signed.workspace_name),
            (live.request.workspace_id, live.request.create_workspace),
        ),
        "key": (signed.key_name, live.key_name),
        "external key": (signed.external_key_id, live.external_key_id),
        "requester": (signed.requester, live.request.requested_by),
        "list of warnings": (signed.acknowledged_warnings, live.warning_titles),
        "list of those who can decrypt": (
            signed.other_decrypters,
            signed_list(live.other_decrypters),
        ),
        "list of workspaces": (signed.other_workspaces, signed_list(live.other_workspaces)),
        "list of imported versions": (
            signed.imported_versions,
            signed_list(live.imported_versions),
        ),
        "data residency": (
            signed.data_residency,
            live.request.data_residency if live.request.create_workspace else None,
        ),
        "decision": (signed.decision, decision),
        "expiry": (signed.expires_at, approval_request.expires_at),
    }
    yield from statement_problems(signed, compared, now)
    if signed.issued_at < approval_request.requested_at - CLOCK_SKEW:
        yield f"{signed.approver} signed before the request was made ({signed.issued_at})"


def statement_problems(
    signed: Statement, compared: Mapping[str, tuple[object, object]], now: datetime
) -> Iterator[str]:
    """Why a statement is not valid for this attach at this moment.

    Args:
        signed: What an approver has signed.
        compared: For each name of a fact: the signed value, and the value that it must have.
        now: Wall clock with time zone.
    """
    for what, (stated, wanted) in compared.items():
        if stated != wanted:
            yield f"{signed.approver} has signed for another {what}"
    if now > signed.expires_at:
        yield f"the signature of {signed.approver} expired at {signed.expires_at}"
    if signed.issued_at > now + CLOCK_SKEW:
        yield f"{signed.approver} signed in the future ({signed.issued_at}): set the clocks right"


def people_problems(
    verified: Sequence[Signed], *, requester: str, requester_excluded: bool, required: int
) -> Iterator[str]:
    """Why these are not enough different people: each approver and each key is counted once.

    Args:
        verified: Signed approvals of enrolled approvers, or those that are to be sent.
        requester: Who requested the onboarding.
        requester_excluded: Whether the requester may not sign.
        required: How many must sign.
    """
    people: list[str] = []
    for one in verified:
        name = one.approval.statement.approver
        if any(same_identity(name, other) for other in people):
            yield f"{name} has signed more than once"
        people.append(name)
        if requester_excluded and same_identity(name, requester):
            yield f"{name} is the requester, so another person must sign"
    if len({one.fingerprint for one in verified}) < len(people):
        yield "one key has signed in more than one name"
    if len(people) < required:
        yield f"{len(people)} of {required} required signatures"
