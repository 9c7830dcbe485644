"""The signed approval: one line of JSON with everything that it approves, and its SSH signature.

The signed line comes together with the signature. It is accepted only in its one canonical form, so
that the verified bytes are the parsed ones; the gate compares its fields with the approval request.
An approver who responds in Prefect's form needs only OpenSSH to sign.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, islice
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, ValidationError

from cmek.canonical import NotCanonicalError, canonical_json, digest
from cmek.errors import CmekError
from cmek.models import FrozenModel, refusals
from cmek.names import Email
from cmek.onboarding.approval_request import ApprovalRequest
from cmek.onboarding.policy import Residency
from cmek.plain_text import plain

NAMESPACE: Final = "cmek-approval"
"""Namespace of every signature; a signature that was made for git or for files has another one."""
MAX_SIGNATURES: Final = 9
LONGEST_STATEMENT: Final = 36_000
"""In bytes of UTF-8: a comment, three lists, the titles of all warnings, names and ids."""
LONGEST_SIGNATURE: Final = 6_000
"""In bytes: the signature of OpenSSH's longest RSA key, 16,384 bits, in its text form."""
MAX_TEXT: Final = MAX_SIGNATURES * (LONGEST_STATEMENT + LONGEST_SIGNATURE)
"""Most bytes of UTF-8 of one response's signed approvals; a gateway gets them in one header."""

_BEGIN: Final = "-----BEGIN SSH SIGNATURE-----"
_END: Final = "-----END SSH SIGNATURE-----"
_LINE: Final = 70
_LISTED: Final = 20
_LIST_BYTES: Final = 6_000
"""Most bytes of the names in one list, as JSON."""

_APPROVER: Final = "you@example.com"
_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)


class UnreadableApprovalError(CmekError):
    """The text does not contain signed approvals in the documented form."""


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("it is before the year 1 or after the year 9999 in UTC") from error


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Statement(FrozenModel):
    """What an approver signs; `approval_request` and `nonce` bind it to one request."""

    model_config = ConfigDict(extra="forbid")

    approver: Email
    """The approver's principal in the file `allowed_signers`."""
    acknowledged_warnings: tuple[str, ...] = ()
    """Titles of the plan's warnings; the signature acknowledges them."""
    approval_request: str
    comment: Annotated[str, Field(min_length=1, max_length=2000)]
    data_residency: Residency | None = None
    """Of the workspace that is to be created."""
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
    """Who requested the onboarding; usually this person may not approve it."""
    run_id: str
    workspace_id: str | None = None
    workspace_name: str | None = None
    """Instead of the id, for a workspace that is to be created."""

    @property
    def text(self) -> str:
        """The line that is signed: canonical JSON, without a line break at the end."""
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
        ValidationError: The approver's address or the comment is not valid in a statement.
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
        issued_at=at.replace(microsecond=0),  # like `date` in `signing_command`: whole seconds
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
    """The names; of a long list only the first ones and a digest of all.

    So it stays readable, and the approvals of the largest plan fit into one response.
    A statement is read on a page and in a terminal, so the names are made harmless (`plain`). The
    unchanged names are covered by `plan_digest`.
    """
    shown = tuple(map(plain, names))
    sizes = accumulate(len(canonical_json(one)) for one in shown[:_LISTED])
    kept = shown[: sum(size <= _LIST_BYTES for size in sizes)]
    if kept == shown:
        return shown
    more = len(shown) - len(kept)
    return (*kept, f"and {more} more; SHA-256 of the whole list {digest(list(names))}")


@dataclass(frozen=True, slots=True)
class SignedApproval:
    """A statement and its armored signature, not verified yet."""

    statement: Statement
    signature: str

    def __str__(self) -> str:
        return f"{self.statement.text}\n{self.signature}"


def parse_signed(text: str) -> tuple[SignedApproval, ...]:
    """Parse one or more signed approvals from the text of a form.

    Line breaks may be missing or may have become spaces: a form's field has only one line.

    Raises:
        UnreadableApprovalError: The message says what is wrong with which of them.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_TEXT:
        raise UnreadableApprovalError(f"longer than {MAX_TEXT} bytes")
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
    # two texts with one meaning are refused: what is verified are the bytes of `canonical`
    if canonical != message:
        raise UnreadableApprovalError(
            f"signed approval {number} is not in its one canonical form: {canonical}"
        )
    # the armor is rebuilt from the base64 alone, so nothing else of the text reaches ssh-keygen
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
    """Paragraphs about signing, for an approval request; none when a typed approval is enough."""
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
    """POSIX shell commands that ask for address and comment and print a signed approval.

    They are in braces, so that the shell reads all lines before it asks: `read` would otherwise
    take the next pasted line. The person edits nothing, so that quotes and backslashes are escaped.
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
    # sorted names and no blanks: what `canonical_json` gives for the finished statement
    message = "'{'" + "','".join(parts) + "'}'"
    return "\n".join(
        (
            "{",
            "printf 'Your address: ' >&2; IFS= read -r a",
            "printf 'Your comment: ' >&2; IFS= read -r c",
            "e() { printf %s \"$1\" | tr -d '\\000-\\037' | sed 's/[\\\\\"]/\\\\&/g'; }",
            f"m={message}",
            # a copy from a page may break the long line
            "m=$(printf %s \"$m\" | tr -d '\\n')",
            'printf \'%s\\n\' "$m"; printf %s "$m" |',
            f"ssh-keygen -Y sign -n {NAMESPACE} -f ~/.ssh/id_ed25519",
            "}",
        )
    )
