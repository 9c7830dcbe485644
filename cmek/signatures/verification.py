"""Whether signed statements count: OpenSSH verifies, the rules are here."""

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
from typing import Final

from cmek.errors import CmekError
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse, same_identity
from cmek.onboarding.plan import Plan
from cmek.signatures.signers import KRL, Signers, SignersRefusedError, Touch, ssh_strings
from cmek.signatures.statement import NAMESPACE, SignedApproval, Statement, signed_list

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far an approver's clock may be from the worker's."""
PROGRAM: Final = "/usr/bin/ssh-keygen"
"""By its full path: what stands first in PATH is not the administrator's choice."""
_SECONDS: Final = 10.0
_GOOD: Final = re.compile(
    r'Good "cmek-approval" signature (?:for \S+ )?with (\S+) key (SHA256:\S+)'
)
_LIMIT: Final = re.compile(r"key (has expired|is not yet valid|is not permitted for use)[^\n]*")


_PRESENT, _VERIFIED = 0x01, 0x04
"""Bits of a hardware key's signature: touched; PIN or fingerprint given. Source: PROTOCOL.u2f."""
SHORTEST_RSA: Final = 2048
"""Bits; OpenSSH itself takes 1,024."""


class BadSignatureError(CmekError):
    """This signature does not count; the message says why."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A signed approval whose signature is that of an enrolled approver."""

    approval: SignedApproval
    key_type: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.approval.statement.approver} ({self.key_type} key {self.fingerprint})"


@dataclass(frozen=True, slots=True)
class _CommandOutput:
    code: int
    text: str


async def verify(approval: SignedApproval, signers: Signers, *, at: datetime) -> Verified:
    """Check that the approver whom the statement names has signed it.

    Args:
        approval: Statement and signature.
        signers: The enrolled approvers.
        at: When the key must be valid, by the signers file.

    Raises:
        BadSignatureError: Altered, made by another key, for another purpose, or by a key that is
            revoked, unknown, expired or not valid yet.
        SignersRefusedError: OpenSSH is missing or hangs.
    """
    return await asyncio.to_thread(_verify, approval, signers, at)


def _verify(approval: SignedApproval, signers: Signers, at: datetime) -> Verified:
    approver = approval.statement.approver
    message = approval.statement.text.encode()
    time = f"verify-time={at.astimezone(UTC):%Y%m%d%H%M%S}"
    with tempfile.TemporaryDirectory(prefix="cmek-") as scratch:
        signature, allowed, listed = (Path(scratch) / one for one in ("signature", "allowed", "no"))
        signature.write_text(approval.signature)
        allowed.write_text(signers.allowed_lines)
        listed.write_bytes(signers.revoked_content)
        known = ("-f", str(allowed), "-I", approver, "-O", time)
        revoked = ("-r", str(listed)) if signers.revoked else ()
        by = ("-n", NAMESPACE, "-s", str(signature))
        # first without the signers: this names the key, whoever it belongs to
        found = _run(["-Y", "check-novalidate", *by], message)
        good = _GOOD.match(found.text)
        if found.code or not good:
            raise BadSignatureError(
                f"the signature in the name of {approver} does not fit its text or its purpose "
                f"({NAMESPACE}): {found.text or 'no output of OpenSSH'}"
            )
        key = f"{good[1]} key {good[2]}"
        if weak := _weakness_of_signature(approval.signature, signers.touch):
            raise BadSignatureError(f"{key} of {approver}: {weak}")
        output = _run(["-Y", "verify", *known, *by, *revoked], message)
        valid = f'Good "{NAMESPACE}" signature for {approver} '
        if output.code == 0 and output.text.startswith(valid):
            return Verified(approval, good[1], good[2])
        # good but for the list: revoked by it, or the list itself can't be read
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
    """Why a genuine signature does not count: too short a key, or nobody was there to touch it.

    OpenSSH verifies neither. Source: OpenSSH's PROTOCOL.sshsig and PROTOCOL.u2f.
    """
    blob = b64decode("".join(armored.split("-----")[2].split()))
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
    flags = signed[8 + len(name) + len(signature)]  # the byte behind these two
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
    """What was found about the signatures of one response."""

    required: int
    """0: a typed approval is enough on this worker."""
    verified: tuple[Verified, ...] = ()
    problems: tuple[str, ...] = ()
    """Why others do not count."""


def signature_problems(
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    live: Plan,
    signatures: Signatures,
    *,
    now: datetime,
) -> tuple[str, ...]:
    """Why these signatures do not make the response count; empty when they do.

    One flawed signature spoils the response, also when enough good ones are beside it: a person
    should find out how it came about.
    """
    signed = [one.approval.statement for one in signatures.verified]
    found = [
        *signatures.problems,
        *(
            flaw
            for statement in signed
            for flaw in _problems_of_one(approval_request, response, live, statement, now)
        ),
        *people_problems(
            signatures.verified,
            requester=live.request.requested_by,
            requester_excluded=live.request.four_eyes or signatures.required > 1,
            required=signatures.required,
        ),
    ]
    given = (response.approver, response.comment)
    if signed and given not in {(one.approver, one.comment) for one in signed}:
        found.append("no statement has the approver and the comment of the answer itself")
    return tuple(found)


def _problems_of_one(
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    live: Plan,
    signed: Statement,
    now: datetime,
) -> Iterator[str]:
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
        "decision": (signed.decision, response.decision),
        "expiry": (signed.expires_at, approval_request.expires_at),
    }
    yield from statement_problems(signed, compared, now)
    if signed.issued_at < approval_request.requested_at - CLOCK_SKEW:
        yield f"{signed.approver} signed before the request was made ({signed.issued_at})"


def statement_problems(
    signed: Statement, compared: Mapping[str, tuple[object, object]], now: datetime
) -> Iterator[str]:
    """Why a statement does not count here and now.

    Args:
        signed: What an approver has signed.
        compared: By what it is called: as stated, and as it must be.
        now: Wall clock, with time zone.
    """
    for what, (stated, wanted) in compared.items():
        if stated != wanted:
            yield f"{signed.approver} has signed for another {what}"
    if now > signed.expires_at:
        yield f"the signature of {signed.approver} expired at {signed.expires_at}"
    if signed.issued_at > now + CLOCK_SKEW:
        yield f"{signed.approver} signed in the future ({signed.issued_at}): set the clocks right"


def people_problems(
    verified: Sequence[Verified], *, requester: str, requester_excluded: bool, required: int
) -> Iterator[str]:
    """Why these are not the people who must sign: each approver and each key counts once.

    Args:
        verified: Signed approvals of enrolled approvers.
        requester: Who asked for the onboarding.
        requester_excluded: Whether others must sign.
        required: How many signatures.
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
