"""Approvers with real SSH keys, and a signers directory that counts although tests run as root."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from cmek.onboarding.approval import ApprovalRequest
from cmek.signatures.statement import NAMESPACE, SignedApproval, Statement, statement_for
from cmek.signatures.verification import PROGRAM, FileFacts, Signers, facts_of, find_signers
from tests.support import facts as make

GRACE, KATHERINE = "grace@example.com", "katherine@example.com"


def trusted(path: Path) -> FileFacts:
    """How the file would look on a worker: root's, and not the worker's to write."""
    return replace(facts_of(path), owner=0, mode=facts_of(path).mode & ~0o022, writable=False)


def keygen(*arguments: str | Path, message: str = "") -> str:
    """Run the real ssh-keygen; its output."""
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


@dataclass
class Office:
    """A signers directory and the approvers' private keys beside it."""

    home: Path
    keys: dict[str, Path] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """What `/etc/cmek` is on a worker."""
        return self.home / "cmek"

    def new_key(self, name: str, kind: str = "ed25519") -> Path:
        """A key pair; the private key's path."""
        path = self.home / name
        if not path.exists():
            keygen("-q", "-t", kind, "-N", "", "-C", "test", "-f", path)
        self.keys[name] = path
        return path

    def enrol(self, name: str, options: Sequence[str] = (), kind: str = "ed25519") -> None:
        """Add an approver to the signers file."""
        public = self.new_key(name, kind).with_suffix(f"{self.keys[name].suffix}.pub").read_text()
        limits = ",".join((f'namespaces="{NAMESPACE}"', *options))
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "allowed_signers").open("a") as file:
            file.write(f"{name} {limits} {' '.join(public.split()[:2])}\n")

    def revoke(self, name: str) -> None:
        """Put an approver's key on the list of revoked ones."""
        public = Path(f"{self.keys[name]}.pub").read_text()
        (self.directory / "revoked_keys").write_text(public)

    def signers(self) -> Signers | None:
        """As a worker finds them."""
        return find_signers(self.directory, trusted)

    @property
    def finder(self) -> partial[Signers | None]:
        """To stand in for `find_signers` in a whole flow."""
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
