"""Who may approve, and whether signed statements count: OpenSSH verifies, the rules are here.

The approvers stand in files of the worker's administrator at a fixed path. No parameter, block or
environment variable names another place, and the files count only while the worker's own user
can't write them: whoever can make the worker run code must not be able to enrol an approver.

| file in `/etc/cmek` | holds |
|---|---|
| `allowed_signers` | approvers, as in `ssh-keygen(1)` under ALLOWED SIGNERS; times in UTC |
| `revoked_keys` | optional: public keys or a key revocation list |
| `minimum_signatures` | optional: a digit, how many approvers each attach needs at least |
| `touch` | optional: what a hardware key must have asked for: `required` (a touch; the default), |
| | `verified` (its PIN or a fingerprint too) or `optional` (nothing) |

A key that is enrolled in two names, or for a pattern of names, would let one person be two: such a
file does not count either.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import stat
import subprocess
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, Literal, cast, get_args

from cmek.errors import CmekError
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse, same_identity
from cmek.onboarding.plan import Plan
from cmek.signatures.statement import NAMESPACE, SignedApproval, Statement, signed_list

DIRECTORY: Final = Path("/etc/cmek")
_ALLOWED: Final = "allowed_signers"
_REVOKED: Final = "revoked_keys"
_MINIMUM: Final = "minimum_signatures"
REQUIRED_VARIABLE: Final = "CMEK_REQUIRED_SIGNATURES"
_TOUCH: Final = "touch"
CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far an approver's clock may be from the worker's."""
PROGRAM: Final = "/usr/bin/ssh-keygen"
"""By its full path: what stands first in PATH is not the administrator's choice."""
_SECONDS: Final = 10.0
_GOOD: Final = re.compile(
    r'Good "cmek-approval" signature (?:for \S+ )?with (\S+) key (SHA256:\S+)'
)
_LIMIT: Final = re.compile(r"key (has expired|is not yet valid|is not permitted for use)[^\n]*")


Touch = Literal["required", "verified", "optional"]
_PRESENT, _VERIFIED = 0x01, 0x04
"""Bits of a hardware key's signature: touched; PIN or fingerprint given. Source: PROTOCOL.u2f."""
_KRL: Final = b"SSHKRL\n"
SHORTEST_RSA: Final = 2048
"""Bits; OpenSSH itself takes 1,024."""


class SignersRefusedError(CmekError):
    """The signers file can't be trusted or used; nothing is attached with it, nor without it."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What decides whether a file's content can be the worker's user's own."""

    path: Path
    owner: int
    mode: int
    """As `st_mode`."""
    writable: bool
    """By the user of this process, whatever gives that right."""


@dataclass(frozen=True, slots=True)
class Signers:
    """The enrolled approvers of this worker."""

    allowed: Path
    revoked: Path | None
    minimum: int
    """How many signatures an attach needs at least; 1 or more."""
    touch: Touch = "required"
    """What a hardware key must show."""
    allowed_lines: str = field(default="", compare=False, repr=False)
    """The file as it was read; verification uses this and no later content."""
    revoked_content: bytes = field(default=b"", compare=False, repr=False)


def facts_of(path: Path) -> FileFacts:
    """Read the facts of a file or directory, not through a symbolic link.

    Raises:
        OSError: It is not there, or can't be read.
    """
    seen = path.lstat()
    return FileFacts(path, seen.st_uid, seen.st_mode, os.access(path, os.W_OK))


def weakness(facts: FileFacts) -> str | None:
    """Why this file or directory does not count, or None. Pure."""
    if stat.S_ISLNK(facts.mode):
        return f"{facts.path} is a symbolic link; put the file itself there"
    if facts.owner != 0:
        return f"{facts.path} is not owned by root: chown root {facts.path}"
    if facts.mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{facts.path} can be written by others than root: chmod go-w {facts.path}"
    if facts.writable:
        return f"{facts.path} can be written by the worker's user: run the worker as another user"
    return None


def find_signers(
    directory: Path = DIRECTORY, look: Callable[[Path], FileFacts] = facts_of
) -> Signers | None:
    """The approvers of this worker, or None when none are enrolled.

    Args:
        directory: For tests only; no caller passes another.
        look: How to read the facts of a file; tests run as root, who can write everything.

    Raises:
        SignersRefusedError: There is such a file and it does not count; says why and what to do.
    """
    try:
        names = (_ALLOWED, _REVOKED, _MINIMUM, _TOUCH)
        there = {name for name in names if _exists(directory / name, look)}
        if not there:
            return None
        if _ALLOWED not in there:
            raise SignersRefusedError(f"{directory / _ALLOWED} is missing beside {min(there)}")
        for path in (*(directory / name for name in sorted(there)), directory, *directory.parents):
            found = weakness(look(path))
            if found is not None:
                raise SignersRefusedError(f"approvals can't be verified: {found}")
        allowed, revoked = directory / _ALLOWED, directory / _REVOKED
        return Signers(
            allowed=allowed,
            revoked=revoked if _REVOKED in there else None,
            minimum=_minimum(directory / _MINIMUM) if _MINIMUM in there else 1,
            touch=_touch(directory / _TOUCH) if _TOUCH in there else "required",
            allowed_lines=_allowed_lines(allowed),
            revoked_content=_revoked_content(revoked) if _REVOKED in there else b"",
        )
    except OSError as error:
        raise SignersRefusedError(
            f"{error.filename or directory}: {error.strerror or error}; the worker's user must be "
            f"able to read {directory}"
        ) from error


def required_signatures(
    signers: Signers | None, requested: int, environment: Mapping[str, str] = os.environ
) -> int:
    """How many an attach needs: the most of signers, request and the process's environment.

    `CMEK_REQUIRED_SIGNATURES` is for a worker or job that may be started where there are no
    signers: it then attaches nothing, instead of accepting typed approvals. It only ever adds.

    Raises:
        SignersRefusedError: Signatures are required and this worker has no signers, or the
            variable holds no digit.
    """
    wanted = max(requested, _required_by(environment))
    if signers is None and wanted:
        raise SignersRefusedError(
            f"{wanted} signatures are required, and this worker has no {DIRECTORY / _ALLOWED}: "
            "enrol the approvers there"
        )
    return max(signers.minimum if signers else 0, wanted)


def _required_by(environment: Mapping[str, str]) -> int:
    text = environment.get(REQUIRED_VARIABLE, "").strip() or "0"
    if text not in {str(number) for number in range(10)}:
        raise SignersRefusedError(f"{REQUIRED_VARIABLE}={text!r}: it must be one digit")
    return int(text)


def _exists(path: Path, look: Callable[[Path], FileFacts]) -> bool:
    try:
        look(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _minimum(path: Path) -> int:
    text = _text(path).strip()
    if text not in "123456789" or len(text) != 1:
        raise SignersRefusedError(f"{path} must hold one digit from 1 to 9")
    return int(text)


def _touch(path: Path) -> Touch:
    text = _text(path).strip()
    for known in get_args(Touch):
        if text == known:
            return cast("Touch", known)
    raise SignersRefusedError(f"{path} must hold one word: {', '.join(get_args(Touch))}")


def file_text(content: bytes) -> str:
    """The text of a file that a person wrote, whichever editor it was: UTF-8, or UTF-16 as marked.

    Line breaks become LF and a byte order mark goes: OpenSSH takes it for a part of the first name.

    Raises:
        ValueError: Neither; says what it looks like.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\x00" in content:
        raise ValueError("it is binary, or UTF-16 without a mark: save it as UTF-8")
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not {encoding.upper()}: save it as UTF-8") from error


def _text(path: Path) -> str:
    try:
        return file_text(path.read_bytes())
    except ValueError as error:
        raise SignersRefusedError(f"{path} can't be read: {error}") from error


_WORD: Final = re.compile(r'(?:"[^"]*"|[^\s"])+')


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each line that is no comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = _WORD.findall(line)
        if words and not words[0].startswith("#"):
            yield number, words


def _public_key(words: Sequence[str]) -> bytes | None:
    """The key in a line: what is encoded behind the name of its type, and repeats that name."""
    for kind, encoded in pairwise(words):
        try:
            blob = b64decode(encoded, validate=True)
            if next(_strings(blob)) == kind.encode():
                return blob
        except (ValueError, StopIteration):
            continue
    return None


def _allowed_lines(path: Path) -> str:
    """The signers, when each key stands for one person."""
    text = _text(path)
    people: dict[bytes, str] = {}
    for number, words in _lines(text):
        principals, key = words[0].strip('"'), _public_key(words)
        where = f"line {number} of {path}"
        if key is None:
            raise SignersRefusedError(f"{where} has no public key that can be read")
        if any("cert-authority" in word for word in words[1:3]):
            continue  # its certificates say who their holders are
        if any(sign in principals for sign in "*?!,"):
            raise SignersRefusedError(
                f"{where} enrols one key for {principals}: it could sign in any of these names, so "
                "that one person is two. Write one address a line, each with a key of its own"
            )
        known = people.setdefault(key, principals)
        if not same_identity(known, principals):
            raise SignersRefusedError(
                f"{where} enrols the key of {known} for {principals} as well, so that one person "
                "is two. Give each person a key of their own"
            )
    return text


def _revoked_content(path: Path) -> bytes:
    """The revoked keys, when OpenSSH can read them: what it can't read revokes everybody's keys."""
    content = path.read_bytes()
    if content.startswith(_KRL):
        return content
    text = _text(path)
    for number, words in _lines(text):
        if _public_key(("", *words)) is None:
            raise SignersRefusedError(
                f"line {number} of {path} is no public key, so nobody can tell which keys are "
                "revoked: write one a line, as in a .pub file, or make a list with ssh-keygen -k"
            )
    return text.encode()


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
        if revoked and _run(["-Y", "verify", *known, *by], message).code == 0:
            read = _run(["-Q", "-l", "-f", str(listed)], b"")
            if signers.revoked_content.startswith(_KRL) and read.code:
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
    parts = list(_strings(blob[len(b"SSHSIG") + 4 :]))
    public, signed = parts[0], parts[-1]
    kind, *numbers = _strings(public)
    if kind.startswith(b"ssh-rsa"):
        bits = int.from_bytes(numbers[2 if b"cert" in kind else 1]).bit_length()
        if bits < SHORTEST_RSA:
            return f"an RSA key needs {SHORTEST_RSA} bits, this one has {bits}: enrol another key"
    if b"sk-" not in kind or touch == "optional":
        return None
    name, signature = islice(_strings(signed), 2)
    flags = signed[8 + len(name) + len(signature)]  # the byte behind these two
    if not flags & _PRESENT:
        return "nobody touched the hardware key for it (it is a no-touch key): enrol one that asks"
    if touch == "verified" and not flags & _VERIFIED:
        return "the hardware key asked for no PIN or fingerprint (make it with verify-required)"
    return None


def _strings(blob: bytes) -> Iterator[bytes]:
    """The strings of SSH's wire format, as far as they go."""
    while len(blob) >= 4:
        end = 4 + int.from_bytes(blob[:4])
        if end > len(blob):
            return
        yield blob[4:end]
        blob = blob[end:]


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
