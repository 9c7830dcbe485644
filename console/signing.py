"""Signing an answer with the approver's own SSH key or agent.

The plan that is shown for signing is the one that the digest is of: what else the server says about
it is a text like any other.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError
from rich.console import Console

from cmek.onboarding.approval import Ask as AskedPlan
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
from console.approvals import ApprovalError
from console.terminal import markdown

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
    asked: AskedPlan, answer: dict[str, Any], key: Path | None, others: Sequence[Path]
) -> str:
    """The answer's own signed approval and those of others, for the form.

    Nobody has to sign a rejection.

    Raises:
        ApprovalError: no key, the key did not sign, or a file holds no signed approval.
    """
    if answer["decision"] == "reject":
        return "-"
    read = [str(one) for path in others for one in _of_others(path)]
    return "\n".join([str(sign(asked, answer["approver"], answer["comment"], key)), *read])


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
