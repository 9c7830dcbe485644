"""What the gateway lets through, and what a signed approval must say. Pure, no I/O.

| call | passes |
|---|---|
| the reads that the product makes | always |
| register and validate an external key | always: neither changes a workspace |
| the tag of the evidence on a workspace | always: it changes nothing but this tag |
| attach a key, or create a workspace with one | with signed approvals for exactly this |
| everything else | never |

Source: guide steps 5 to 7; https://platform.claude.com/docs/en/manage-claude/cmek-admin-api
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, JsonValue, ValidationError

from cmek.anthropic.client import EXTERNAL_KEYS_PATH, ORGANIZATION_PATH, WORKSPACES_PATH
from cmek.anthropic.models import ExternalKey, Workspace
from cmek.errors import CmekError
from cmek.models import FrozenModel, refusals
from cmek.names import EXTERNAL_KEY_ID, WORKSPACE_ID, KeyName
from cmek.onboarding.policy import MAX_APPROVAL_HOURS
from cmek.onboarding.request import (
    MAX_NAME,
    created_by_run,
    data_residency,
    same_name_workspaces,
)
from cmek.signatures.statement import Statement
from cmek.signatures.verification import (
    CLOCK_SKEW,
    Verified,
    people_problems,
    statement_problems,
)
from cmek.tags import CREATED_BY_TAG, EVIDENCE_TAG

_VALIDATE: Final = "/validate"
_LONGEST: Final = timedelta(hours=MAX_APPROVAL_HOURS)
"""The longest time between an approval's signature and its expiry."""


class PolicyError(CmekError):
    """The gateway does not let this call through; nothing was sent to Anthropic."""


QueryItems: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came in."""

    method: str
    path: str
    query: QueryItems = ()
    body: JsonValue = None


@dataclass(frozen=True, slots=True)
class Forward:
    """A call that passes as it is, checked field by field."""

    verb: str
    """For the log, as the Admin API's documentation names it."""
    method: str
    path: str
    query: Mapping[str, str | list[str]]
    body: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True, slots=True)
class Attach:
    """A key for a workspace that exists; irreversible."""

    workspace_id: str
    external_key_id: str


@dataclass(frozen=True, slots=True)
class Create:
    """A new workspace that has its key from its first request on; irreversible."""

    name: str
    external_key_id: str
    run_id: str
    data_residency: Mapping[str, JsonValue] | None


@dataclass(frozen=True, slots=True)
class Tag:
    """The evidence tag; the others in the call must be exactly those that the workspace has."""

    call: Forward
    workspace_id: str
    others: Mapping[str, str]


PermittedCall: TypeAlias = Forward | Tag | Attach | Create


class _RequestModel(FrozenModel):
    # a field that is not known and checked here must never reach Anthropic
    model_config = ConfigDict(extra="forbid", strict=True)


B = TypeVar("B", bound=_RequestModel)


class _GcpKey(_RequestModel):
    type: Literal["gcp"]
    key_name: Annotated[str, Field(max_length=500)]


class _Registration(_RequestModel):
    display_name: Annotated[str | None, Field(max_length=255)] = None
    geo: Literal["us"]
    provider_config: _GcpKey


class _Tags(_RequestModel):
    tags: dict[str, str]


class _AttachBody(_RequestModel):
    external_key_id: Annotated[str, Field(pattern=rf"^{EXTERNAL_KEY_ID}$")]


class _CreateBody(_AttachBody):
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    tags: dict[Literal["cmek-run"], Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]]
    data_residency: dict[str, JsonValue] | None = None


assert CREATED_BY_TAG == "cmek-run"  # noqa: S101  # as in the model above

_LISTS: Final = {
    EXTERNAL_KEYS_PATH: ("external_keys.list", frozenset({"limit", "page"})),
    WORKSPACES_PATH: (
        "workspaces.list",
        frozenset({"limit", "after_id", "include_archived", "include_default", "ids[]"}),
    ),
    ORGANIZATION_PATH: ("organization.me", frozenset[str]()),
}
_OBJECTS: Final = (
    (re.compile(rf"{EXTERNAL_KEYS_PATH}/{EXTERNAL_KEY_ID}"), "external_keys.retrieve"),
    (re.compile(rf"{WORKSPACES_PATH}/{WORKSPACE_ID}"), "workspaces.retrieve"),
)
_VALIDATION_PATH: Final = re.compile(rf"{EXTERNAL_KEYS_PATH}/{EXTERNAL_KEY_ID}{_VALIDATE}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_WORKSPACE_PATH: Final = re.compile(rf"{WORKSPACES_PATH}/({WORKSPACE_ID})")


def decide(call: Call) -> PermittedCall:
    """Parse a call into one of the permitted kinds.

    Raises:
        PolicyError: A method, path, query or field that the product does not use; names it.
    """
    if call.method == "GET":
        return _read(call)
    if call.method != "POST":
        raise PolicyError(f"{call.method} {call.path}: only GET and POST pass")
    if call.query:
        raise PolicyError(f"POST {call.path}: no query passes, given was {_names(call.query)}")
    if _VALIDATION_PATH.fullmatch(call.path):
        if call.body is not None:
            raise PolicyError(f"POST {call.path}: a validation has no body")
        return Forward("external_keys.validate", "POST", call.path, {})
    if call.path == EXTERNAL_KEYS_PATH:
        return _registration(call)
    if call.path == WORKSPACES_PATH:
        return _create(call)
    match = _WORKSPACE_PATH.fullmatch(call.path)
    if match is None:
        raise PolicyError(f"POST {call.path} is no call that the product makes")
    return _update(call, match[1])


def _read(call: Call) -> Forward:
    if call.body is not None:
        raise PolicyError(f"GET {call.path}: a read has no body")
    found = _LISTS.get(call.path) or next(
        ((verb, frozenset[str]()) for path, verb in _OBJECTS if path.fullmatch(call.path)), None
    )
    if found is None:
        raise PolicyError(f"GET {call.path} is no read that the product makes")
    verb, allowed = found
    unknown = [(name, value) for name, value in call.query if name not in allowed]
    if unknown:
        raise PolicyError(f"GET {call.path}: the query {_names(unknown)} does not pass")
    # a name given twice could be read in one way here and in another by Anthropic
    query: dict[str, str | list[str]] = {}
    for name, value in call.query:
        if name in query and not name.endswith("[]"):
            raise PolicyError(f"GET {call.path}: {name} is given more than once")
        query[name] = value if not name.endswith("[]") else [*query.get(name, []), value]
    return Forward(verb, "GET", call.path, query)


def _names(query: Sequence[tuple[str, str]]) -> str:
    return ", ".join(sorted({name for name, _ in query}))


def _registration(call: Call) -> Forward:
    body = _parsed(_Registration, call)
    try:
        KeyName.parse(body.provider_config.key_name)
    except ValueError as error:
        raise PolicyError(f"POST {call.path}: {error}") from error
    fields = body.model_dump(mode="json")
    return Forward("external_keys.create", "POST", call.path, {}, fields)


def _create(call: Call) -> Create:
    body = _parsed(_CreateBody, call)
    if set(body.tags) != {CREATED_BY_TAG}:
        raise PolicyError(f"POST {call.path}: tags must be {CREATED_BY_TAG} and nothing else")
    return Create(body.name, body.external_key_id, body.tags["cmek-run"], body.data_residency)


def _update(call: Call, workspace_id: str) -> Tag | Attach:
    # the models forbid other fields, so a call with tags can't attach a key as well
    if isinstance(call.body, dict) and "tags" in call.body:
        tags = _parsed(_Tags, call).tags
        if not _HASH.fullmatch(tags.get(EVIDENCE_TAG, "")):
            raise PolicyError(f"POST {call.path}: tags must hold {EVIDENCE_TAG} with a SHA-256")
        passed = Forward("workspaces.update", "POST", call.path, {}, {"tags": dict(tags)})
        others = {name: value for name, value in tags.items() if name != EVIDENCE_TAG}
        return Tag(passed, workspace_id, others)
    return Attach(workspace_id, _parsed(_AttachBody, call).external_key_id)


def _parsed(model: type[B], call: Call) -> B:
    try:
        return model.model_validate(call.body)
    except ValidationError as error:
        what = "; ".join(islice(refusals(error, values=False, root="body"), 3))
        raise PolicyError(f"POST {call.path}: {what}") from error


def approval_problems(
    target: Attach | Create,
    verified: Sequence[Verified],
    *,
    minimum: int,
    requester_excluded: bool,
    now: datetime,
) -> tuple[str, ...]:
    """Why these signed approvals do not permit this attach or create; empty when they do.

    Args:
        target: The requested attach or create.
        verified: Approvals whose signatures are those of enrolled approvers.
        minimum: How many approvers must sign; 1 or more.
        requester_excluded: Whether the requester's own approval is ignored.
        now: Wall clock, with time zone.
    """
    statements = [one.approval.statement for one in verified]
    if not statements:
        return (f"0 of {minimum} required signatures",)
    return (
        *(flaw for one in statements for flaw in _flaws(target, one, now)),
        *_disagreements(statements),
        *people_problems(
            verified,
            requester=statements[0].requester,
            requester_excluded=requester_excluded,
            required=minimum,
        ),
    )


def _flaws(target: Attach | Create, signed: Statement, now: datetime) -> Iterator[str]:
    """Where one signed statement differs from this attach or create, or is not valid now."""
    compared: dict[str, tuple[object, object]] = {
        "external key": (signed.external_key_id, target.external_key_id),
        "decision": (signed.decision, "approve"),
    }
    if isinstance(target, Attach):
        compared["workspace"] = (
            (signed.workspace_id, signed.workspace_name),
            (target.workspace_id, None),
        )
    else:
        compared["workspace"] = (
            (signed.workspace_id, signed.workspace_name),
            (None, target.name),
        )
        # the run's tag is how a create is found again, so it is signed for as well
        compared["run"] = (signed.run_id, target.run_id)
        wanted = data_residency(signed.data_residency) if signed.data_residency else None
        compared["data residency"] = (wanted, target.data_residency)
    yield from statement_problems(signed, compared, now)
    # the worker sets the lifetime of a request, and the gateway does not trust the worker
    if signed.expires_at > signed.issued_at + _LONGEST + CLOCK_SKEW:
        yield (
            f"{signed.approver} signed until {signed.expires_at}: an approval counts for "
            f"{_LONGEST.days} days at most"
        )


_SHARED: Final = (
    "acknowledged_warnings",
    "approval_request",
    "data_residency",
    "expires_at",
    "external_key_id",
    "imported_versions",
    "key_name",
    "nonce",
    "other_decrypters",
    "other_workspaces",
    "plan_digest",
    "requester",
    "run_id",
    "workspace_id",
    "workspace_name",
)
"""Fields that must be equal in all statements; approver, time and comment may differ."""


def _disagreements(statements: Sequence[Statement]) -> Iterator[str]:
    first = statements[0]
    for other in statements[1:]:
        for name in _SHARED:
            if getattr(other, name) != getattr(first, name):
                yield f"{first.approver} and {other.approver} have signed another {name}"


def live_problems(
    target: Attach | Create,
    signed: Statement,
    key: ExternalKey,
    workspaces: Sequence[Workspace],
) -> tuple[str, ...]:
    """Why the state that the gateway itself has read forbids it; empty when it does not.

    Args:
        target: The requested attach or create.
        signed: One of the statements; they agree about this.
        key: The external key, just read.
        workspaces: The workspace, just read; for a create all of the organization's.
    """
    return tuple(_live_problems(target, signed, key, workspaces))


def _live_problems(
    target: Attach | Create,
    signed: Statement,
    key: ExternalKey,
    workspaces: Sequence[Workspace],
) -> Iterator[str]:
    if key.id != target.external_key_id or key.gcp_key_name != signed.key_name:
        yield f"{key.id} is registered for {key.gcp_key_name}, signed was {signed.key_name}"
    if isinstance(target, Create):
        if taken := same_name_workspaces(workspaces, target.name):
            yield f"a workspace of this name exists: {', '.join(one.id for one in taken)}"
        return
    for one in workspaces:
        if one.is_archived:
            yield f"workspace {one.id} is archived"
        if one.external_key_id is not None:
            yield f"workspace {one.id} has the key {one.external_key_id}, which can't be changed"


def tag_problem(tag: Tag, workspace: Workspace) -> str | None:
    """Why the tags may not be written; None when only the evidence tag is new.

    It is not documented whether an update replaces the other tags, so the product sends them along.
    """
    before = dict(workspace.tags)
    if EVIDENCE_TAG in before:
        return f"workspace {workspace.id} has a tag {EVIDENCE_TAG}, which is written once"
    return None if tag.others in ({}, before) else "the other tags are not those that it has"


def present(target: Attach | Create, workspaces: Sequence[Workspace]) -> Workspace | None:
    """The workspace that already has the requested key; None when there is none."""
    # a create by the run's tag: a workspace of the same name may be somebody else's
    found = created_by_run(workspaces, target.run_id) if isinstance(target, Create) else workspaces
    return next((one for one in found if one.external_key_id == target.external_key_id), None)
