"""How to sign with OpenSSH alone, for an approver who answers in Prefect's form."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Final

from cmek.approval import Ask
from cmek.signatures.statement import NAMESPACE, statement_for

_APPROVER: Final = "you@example.com"
_COMMENT: Final = "why you approve"
_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)


def signing_text(ask: Ask) -> list[str]:
    """Paragraphs for the text of an ask; none when nobody has to sign."""
    if not ask.signatures:
        return []
    count = "One approver" if ask.signatures == 1 else f"{ask.signatures} different approvers"
    how = (
        f"{count} of this worker's `allowed_signers` must sign. Answer with `cmek approve "
        f"{ask.run_id}`, which shows the plan that the digest is really of. In the form instead: "
        "put your address and comment into the next line (as in the form, and no apostrophe), run "
        "it, and paste all that it prints; several signed approvals stand one behind the other."
    )
    return ["### To sign", how, f"```sh\n{signing_command(ask)}\n```"]


def signing_command(ask: Ask) -> str:
    """One line of POSIX shell that prints a signed approval of this ask."""
    statement = statement_for(
        ask, approver=_APPROVER, decision="approve", comment=_COMMENT, at=_TIME
    )
    before, _, after = statement.text.partition("2000-01-01T00:00:00Z")
    return (
        f'm={shlex.quote(before)}"$(date -u +%Y-%m-%dT%H:%M:%SZ)"{shlex.quote(after)}; '
        f"printf '%s\\n' \"$m\"; printf '%s' \"$m\" | "
        f"ssh-keygen -Y sign -n {NAMESPACE} -f ~/.ssh/id_ed25519"
    )
