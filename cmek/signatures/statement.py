"""The signed approval: one line of JSON that says all that it approves, and its SSH signature.

The bytes that were signed travel with the signature and are verified as they are; only then are
they read, and what they say is compared with the approval request by the gate. OpenSSH alone is
enough to sign, for an approver who responds in Prefect's form.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, ValidationError

from cmek.canonical import NotCanonicalError, canonical_json, digest
from cmek.errors import CmekError
from cmek.models import FrozenModel, refusals
from cmek.names import Email
from cmek.onboarding.approval import ApprovalRequest
from cmek.onboarding.policy import Residency
from cmek.plain_text import plain

NAMESPACE: Final = "cmek-approval"
"""Of every signature; one made for git or for files does not count."""
MAX_TEXT: Final = 40_000
"""Characters of all signed approvals of one response."""
MAX_SIGNATURES: Final = 9

_BEGIN: Final = "-----BEGIN SSH SIGNATURE-----"
_END: Final = "-----END SSH SIGNATURE-----"
_LINE: Final = 70
_LISTED: Final = 20

_APPROVER: Final = "you@example.com"
_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)


class UnreadableApprovalError(CmekError):
    """The text holds no signed approvals in the shape that the approval request describes."""


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("it is before the year 1 or after the year 9999 in UTC") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Statement(FrozenModel):
    """What an approver signs. `approval_request` and `nonce` make it count for one request only."""

    model_config = ConfigDict(extra="forbid")

    approver: Email
    """The principal in the signers file."""
    acknowledged_warnings: tuple[str, ...] = ()
    """Titles of what the plan warns of; the signature acknowledges them."""
    approval_request: str
    comment: Annotated[str, Field(min_length=1, max_length=2000)]
    data_residency: Residency | None = None
    """Of the workspace that the approval creates."""
    decision: Literal["approve", "reject"]
    expires_at: Moment
    external_key_id: str
    imported_versions: tuple[str, ...] = ()
    """Key versions whose material came from outside Cloud KMS."""
    issued_at: Moment
    key_name: str
    nonce: str
    other_decrypters: tuple[str, ...] = ()
    """Who else can decrypt with the key, as `signed_list` shortens it."""
    other_workspaces: tuple[str, ...] = ()
    """Other workspaces whose data is under the same key."""
    plan_digest: str
    requester: str
    """Who asked for the onboarding; nobody approves their own."""
    run_id: str
    workspace_id: str | None = None
    workspace_name: str | None = None
    """Instead of the id, for a workspace that the approval creates."""

    @property
    def text(self) -> str:
        """The line that is signed: canonical JSON, without a line break behind it."""
        return canonical_json(self.model_dump(mode="json", exclude_none=True)).decode()


def statement_for(
    approval_request: ApprovalRequest,
    *,
    approver: str,
    decision: Literal["approve", "reject"],
    comment: str,
    at: datetime,
) -> Statement:
    """The statement that this approver signs to respond to this request.

    Raises:
        ValidationError: The approver's address or the comment can't stand in a statement.
    """
    plan, request = approval_request.plan, approval_request.plan.request
    return Statement(
        approver=approver,
        acknowledged_warnings=plan.warning_titles,
        approval_request=approval_request.key,
        comment=comment,
        data_residency=request.data_residency if request.create_workspace else None,
        decision=decision,
        expires_at=approval_request.expires_at,
        external_key_id=plan.external_key_id,
        imported_versions=signed_list(plan.imported_versions),
        issued_at=at.replace(microsecond=0),
        key_name=plan.key_name,
        nonce=approval_request.nonce,
        other_decrypters=signed_list(plan.other_decrypters),
        other_workspaces=signed_list(plan.other_workspaces),
        plan_digest=approval_request.digest,
        requester=request.requested_by,
        run_id=approval_request.run_id,
        workspace_id=request.workspace_id,
        workspace_name=request.create_workspace,
    )


def signed_list(names: Sequence[str]) -> tuple[str, ...]:
    """The names, or the first ones and a digest of all, so that a statement stays readable.

    A statement is read on a page and in a terminal, so of a name it has what can be seen there.
    `plan_digest` covers the names as they are.
    """
    shown = tuple(map(plain, names))
    if len(shown) <= _LISTED:
        return shown
    more = len(shown) - _LISTED
    return (*shown[:_LISTED], f"and {more} more; SHA-256 of the whole list {digest(list(names))}")


@dataclass(frozen=True, slots=True)
class SignedApproval:
    """A statement and its armored signature; nothing about it is proved yet."""

    statement: Statement
    signature: str

    def __str__(self) -> str:
        return f"{self.statement.text}\n{self.signature}"


def parse_signed(text: str) -> tuple[SignedApproval, ...]:
    """Read signed approvals, one behind the other, as they come out of a form.

    Line breaks may have been lost or become spaces: a form's field has one line only.

    Raises:
        UnreadableApprovalError: Says what is wrong with which of them.
    """
    if len(text) > MAX_TEXT:
        raise UnreadableApprovalError(f"longer than {MAX_TEXT} characters")
    *blocks, rest = text.split(_END)
    if rest.strip() or not blocks:
        raise UnreadableApprovalError(f"each signed approval must end with {_END}")
    if len(blocks) > MAX_SIGNATURES:
        raise UnreadableApprovalError(f"more than {MAX_SIGNATURES} signed approvals")
    return tuple(_parse_block(number, block) for number, block in enumerate(blocks, start=1))


def _parse_block(number: int, block: str) -> SignedApproval:
    message, _, armored = block.partition(_BEGIN)
    message = message.strip()
    try:
        statement = Statement.model_validate_json(message)
        canonical = statement.text
    except (ValidationError, NotCanonicalError) as error:
        raise UnreadableApprovalError(
            f"signed approval {number} is not the statement of the request: {_brief(error)}"
        ) from error
    if canonical != message:
        raise UnreadableApprovalError(
            f"signed approval {number} is not in its one canonical form: {canonical}"
        )
    encoded = "".join(armored.split())
    if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", encoded):
        raise UnreadableApprovalError(f"signed approval {number} has no SSH signature behind it")
    lines = [encoded[at : at + _LINE] for at in range(0, len(encoded), _LINE)]
    return SignedApproval(statement, "\n".join([_BEGIN, *lines, _END, ""]))


def _brief(error: ValidationError | NotCanonicalError) -> str:
    if isinstance(error, NotCanonicalError):
        return "invalid characters"
    return "; ".join(islice(refusals(error), 3))


def signing_text(approval_request: ApprovalRequest) -> list[str]:
    """Paragraphs for the text of an approval request; none when typing is enough."""
    if not approval_request.signatures:
        return []
    number = approval_request.signatures
    count = "One approver" if number == 1 else f"{number} different approvers"
    how = (
        f"{count} of this worker's `allowed_signers` must sign. Respond with `cmek approve "
        f"{approval_request.run_id}`, which shows the plan that has this digest. Or paste these "
        "lines into a shell; they ask for address and comment, which must be those of the form. "
        "Paste all that they print; several signed approvals stand one behind the other."
    )
    return ["### To sign", how, f"```sh\n{signing_command(approval_request)}\n```"]


def signing_command(approval_request: ApprovalRequest) -> str:
    """POSIX shell that asks for address and comment and prints a signed approval of this request.

    In braces, so that a shell has read all of it before it asks. Nothing is edited by hand: what is
    typed may hold quotes and backslashes. Line breaks that a copy puts into the long line go away.
    """
    statement = statement_for(
        approval_request, approver=_APPROVER, decision="approve", comment="-", at=_TIME
    )
    typed = {"approver": '$(e "$a")', "comment": '$(e "$c")', "issued_at": "$(date -u +%FT%TZ)"}
    fields = statement.model_dump(mode="json", exclude_none=True)
    parts = [
        shlex.quote(f'"{name}":"') + f'"{typed[name]}"' + "'\"'"
        if name in typed
        else shlex.quote(canonical_json({name: fields[name]}).decode()[1:-1])
        for name in sorted(fields)
    ]
    message = "'{'" + "','".join(parts) + "'}'"
    return "\n".join(
        (
            "{",
            "printf 'Your address: ' >&2; IFS= read -r a",
            "printf 'Your comment: ' >&2; IFS= read -r c",
            "e() { printf %s \"$1\" | tr -d '\\000-\\037' | sed 's/[\\\\\"]/\\\\&/g'; }",
            f"m={message}",
            "m=$(printf %s \"$m\" | tr -d '\\n')",
            'printf \'%s\\n\' "$m"; printf %s "$m" |',
            f"ssh-keygen -Y sign -n {NAMESPACE} -f ~/.ssh/id_ed25519",
            "}",
        )
    )
