"""OpenSSH's own `ssh-keygen -Y`: signing and verifying, with its rules for signers files."""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cmek.signatures.signers import Signers, SignersRefusedError
from cmek.signatures.statement import NAMESPACE, SignedApproval

PROGRAM: Final = "/usr/bin/ssh-keygen"
"""By its full path: what stands first in PATH is not the administrator's choice."""
_SECONDS: Final = 10.0
_GOOD: Final = re.compile(
    r'Good "cmek-approval" signature (?:for \S+ )?with (\S+) key (SHA256:\S+)'
)


class BadSignatureError(Exception):
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
class _Said:
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
    known = ("-f", str(signers.allowed), "-I", approver, "-O", time)
    revoked = ("-r", str(signers.revoked)) if signers.revoked else ()
    with tempfile.TemporaryDirectory(prefix="cmek-") as scratch:
        signature = Path(scratch) / "signature"
        signature.write_text(approval.signature)
        by = ("-n", NAMESPACE, "-s", str(signature))
        found = _run(["-Y", "check-novalidate", *by], message)
        good = _GOOD.match(found.text)
        if found.code or not good:
            raise BadSignatureError(
                f"the signature in the name of {approver} does not fit its text or its purpose "
                f"({NAMESPACE}): {found.text or 'no word from OpenSSH'}"
            )
        key = f"{good[1]} key {good[2]}"
        said = _run(["-Y", "verify", *known, *by, *revoked], message)
        if said.code == 0 and said.text.startswith(f'Good "{NAMESPACE}" signature for {approver} '):
            return Verified(approval, good[1], good[2])
        if revoked and _run(["-Y", "verify", *known, *by], message).code == 0:
            raise BadSignatureError(f"{key} of {approver} is revoked by {signers.revoked}")
    why = _validity(said.text) or f"is not enrolled for them in {signers.allowed}"
    raise BadSignatureError(f"{key}, used in the name of {approver}, {why}")


def _validity(said: str) -> str | None:
    found = re.search(r"key (has expired|is not yet valid|is not permitted for use)[^\n]*", said)
    return found[0].removeprefix("key ") if found else None


def _run(arguments: Sequence[str], message: bytes) -> _Said:
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
    return _Said(done.returncode, done.stdout.decode(errors="replace").strip())
