"""Approvers with real SSH keys, and a signers directory that is valid even in tests run as root."""

from __future__ import annotations

import hashlib
import subprocess
import textwrap
from base64 import b64encode
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cmek.onboarding.approval_request import ApprovalRequest
from cmek.signatures.signers import FileFacts, Signers, facts_of, find_signers
from cmek.signatures.statement import NAMESPACE, SignedApproval, Statement, statement_for
from cmek.signatures.verification import PROGRAM
from tests.support import facts as make

GRACE, KATHERINE = "grace@example.com", "katherine@example.com"


def trusted(path: Path) -> FileFacts:
    """The file's facts as on a worker: owned by root, and not writable by the worker."""
    return replace(facts_of(path), owner=0, mode=facts_of(path).mode & ~0o022, writable=False)


def keygen(*arguments: str | Path, message: str = "") -> str:
    """Run the real ssh-keygen; returns its output."""
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)], input=message.encode(), capture_output=True, check=True
    )
    return done.stdout.decode()


def sign(text: str, key: Path, namespace: str = NAMESPACE) -> str:
    """Sign as the command in an approval request's text does."""
    return keygen("-Y", "sign", "-n", namespace, "-f", key, message=text)


def statement(
    for_ask: ApprovalRequest | None = None, /, approver: str = GRACE, **changes: Any
) -> Statement:
    """A statement for the approval request of `facts`, with changes."""
    signed = statement_for(
        for_ask or make.approval_request(),
        approver=approver,
        decision="approve",
        comment="fine",
        at=make.NOW,
    )
    return signed.model_copy(update=changes)


class HardwareKey:
    """A security key in software; a test decides what it says about its user's presence.

    Source: OpenSSH's PROTOCOL.u2f and PROTOCOL.sshsig.
    """

    KIND = b"sk-ssh-ed25519@openssh.com"
    APPLICATION = b"ssh:"

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        raw = self._private.public_key().public_bytes_raw()
        self._blob = b"".join(map(_string, (self.KIND, raw, self.APPLICATION)))

    @property
    def public(self) -> str:
        """Type and key, as in a `.pub` file."""
        return f"{self.KIND.decode()} {b64encode(self._blob).decode()}"

    def signed(self, said: Statement, *, flags: int) -> SignedApproval:
        """The statement, signed with these flags: 1 touched, 4 PIN or fingerprint given."""
        hashed = hashlib.sha512(said.text.encode()).digest()
        parts = (NAMESPACE.encode(), b"", b"sha512")
        message = b"SSHSIG" + b"".join(map(_string, (*parts, hashed)))
        proof = bytes([flags]) + (7).to_bytes(4)
        signed = self._private.sign(
            hashlib.sha256(self.APPLICATION).digest() + proof + hashlib.sha256(message).digest()
        )
        signature = _string(self.KIND) + _string(signed) + proof
        blob = b"SSHSIG" + (1).to_bytes(4) + b"".join(map(_string, (self._blob, *parts, signature)))
        lines = textwrap.wrap(b64encode(blob).decode(), 70)
        armored = ["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]
        return SignedApproval(said, "\n".join(armored))


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


@dataclass
class Office:
    """A signers directory and the approvers' private keys beside it."""

    home: Path
    keys: dict[str, Path] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """The directory that is `/etc/cmek` on a worker."""
        return self.home / "cmek"

    def new_key(self, name: str, kind: str = "ed25519", bits: int = 0) -> Path:
        """Make a key pair; returns the path of the private key."""
        path = self.home / name
        if not path.exists():
            size = ("-b", str(bits)) if bits else ()
            keygen("-q", "-t", kind, *size, "-N", "", "-C", "test", "-f", path)
        self.keys[name] = path
        return path

    def enrol(
        self,
        name: str,
        kind: str = "ed25519",
        bits: int = 0,
        *,
        key: str | None = None,
    ) -> None:
        """Add an approver to the signers file; `key` is the name of another key of theirs."""
        public = Path(f"{self.new_key(key or name, kind, bits)}.pub").read_text()
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "allowed_signers").open("a") as file:
            file.write(f'{name} namespaces="{NAMESPACE}" {" ".join(public.split()[:2])}\n')

    def enrol_hardware(self, name: str) -> HardwareKey:
        """Add an approver with a security key; returns one in software."""
        key = HardwareKey()
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "allowed_signers").open("a") as file:
            file.write(f'{name} namespaces="{NAMESPACE}" {key.public}\n')
        return key

    def revoke(self, name: str) -> None:
        """Put an approver's key on the list of revoked ones."""
        public = Path(f"{self.keys[name]}.pub").read_text()
        (self.directory / "revoked_keys").write_text(public)

    def signers(self) -> Signers | None:
        """The signers, as a worker would find them."""
        return find_signers(self.directory, trusted)

    @property
    def finder(self) -> partial[Signers | None]:
        """A replacement of `find_signers` in a whole flow."""
        return partial(find_signers, self.directory, trusted)

    def signed(self, said: Statement, by: str | None = None) -> SignedApproval:
        """The statement with a signature of its approver's key, or of another's."""
        return SignedApproval(said, sign(said.text, self.keys[by or said.approver]))

    def answer_text(
        self, approval_request: ApprovalRequest, *approvers: str, at: datetime, **changes: Any
    ) -> str:
        """Signed approvals of this request for its form."""
        said = (
            statement_for(approval_request, approver=one, decision="approve", comment="fine", at=at)
            for one in approvers
        )
        return "\n".join(str(self.signed(one.model_copy(update=changes))) for one in said)
