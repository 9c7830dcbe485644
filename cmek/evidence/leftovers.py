"""What onboarding made and no workspace uses, and the commands that take it back.

The records say what was made, by which run and whether it was approved; live reads say what is
still there and whether anything uses it. Nothing here writes: a person decides and runs the
commands, in their order.

Source: https://docs.cloud.google.com/kms/docs/delete-kms-resources and
https://platform.claude.com/docs/en/api/http/organization/external_keys/delete
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from google.iam.v1 import policy_pb2
from pydantic import BaseModel, ValidationError

from cmek._http import Failed, Ok, Result, ok_value, try_read
from cmek.addresses import ADMIN_API, ADMIN_HEADERS
from cmek.anthropic.client import EXTERNAL_KEYS_PATH, AdminApi
from cmek.anthropic.models import ExternalKey
from cmek.anthropic_identity import MEMBER, ROLES
from cmek.evidence.record import Chain, EvidenceEntry
from cmek.gcp.gcloud import key_in, on_key, on_version, revoke
from cmek.gcp.iam import unconditional_roles
from cmek.gcp.kms import CloudKms
from cmek.gcp.resources import CryptoKey, KeyVersion
from cmek.keys.conditions import other_users
from cmek.models import FrozenModel, rule_of
from cmek.names import ExternalKeyId, KeyName, organization_label

LeftoverKind = Literal["external key", "grants", "organization label", "crypto key", "key ring"]
Approval = Literal["approved", "rejected", "not approved"]
_KINDS: Final[dict[str, LeftoverKind]] = {
    "external_keys.create": "external key",
    "SetIamPolicy": "grants",
    "UpdateCryptoKey": "organization label",
    "CreateCryptoKey": "crypto key",
    "CreateKeyRing": "key ring",
}
"""By the action of a write. The order is the one in which it is safe to take things back: first
nothing can be attached any more, then nobody outside can use the key, and the key itself last."""
_ORDER: Final = tuple(_KINDS.values())
_GONE: Final = frozenset({"DESTROYED", "DESTROY_SCHEDULED"})
_FOR_EVER: Final[dict[LeftoverKind, str]] = {
    "external key": "Its id is gone for good; registering the key again gives another one.",
    "grants": "",
    "organization label": "",
    "crypto key": "Who can use it by a grant on the ring, the project or above was not read: look "
    "before you destroy a version. A destroyed version can be restored until its destroy time, "
    "never after it. The name of a key that is deleted can never be used again.",
    "key ring": "It costs nothing, can't be moved or renamed, and the next onboarding uses it: "
    "leave it.",
}


class Made(FrozenModel):
    """One thing that an onboarding made, as its record says."""

    kind: LeftoverKind
    resource: str
    """Of an external key its id, else the full resource name."""
    key_name: str
    """The crypto key that it belongs to; of a ring the ring's name."""
    at: datetime
    run: str
    subject: str
    """The workspace's id, or what stands for a new one."""
    approval: Approval

    @property
    def is_readable(self) -> bool:
        """Whether the record names something of this kind; whoever wrote it may have named more."""
        if self.kind == "external key":
            return rule_of(ExternalKeyId).fits(self.resource)
        if self.kind == "key ring":
            return key_in(f"{self.resource}/cryptoKeys/any") is not None
        return key_in(self.resource) is not None


class Leftover(FrozenModel):
    """What was made, is still there, and is used by nothing."""

    kind: LeftoverKind
    resource: str
    since: datetime
    run: str
    subject: str
    approval: Approval
    take_back: tuple[str, ...]
    """Commands in their order; empty where there is nothing to do or nothing that is safe."""
    remark: str = ""
    """What can never be taken back, or why no command is given."""


class _Write(BaseModel):
    action: str
    resource: str
    after: dict[str, object] | None = None


def made_by(subject: str, chain: Chain) -> Iterator[Made]:
    """What the runs of one workspace made; nothing of a run that attached its key.

    A key that a run attached is in use, and so is all that an earlier run made of it.
    """
    for entry in chain.entries:
        write = _write(entry)
        if write is None or write.action not in _KINDS:
            continue
        kind = _KINDS[write.action]
        if kind == "organization label" and "users" not in _before(entry):
            continue  # the mark of an attached key
        yield Made(
            kind=kind,
            resource=write.resource,
            key_name=_key_name(write),
            at=entry.at,
            run=entry.run,
            subject=subject,
            approval=_approval(chain, entry.run),
        )


def _key_name(write: _Write) -> str:
    """Of an external key the crypto key that it was registered for."""
    if _KINDS[write.action] != "external key":
        return write.resource
    return str((write.after or {}).get("key_name", ""))


def _write(entry: EvidenceEntry) -> _Write | None:
    try:
        return _Write.model_validate(entry.body) if entry.kind == "write" else None
    except ValidationError:
        return None


def _before(entry: EvidenceEntry) -> dict[str, object]:
    before = entry.body.get("before") if isinstance(entry.body, dict) else None
    return dict(before) if isinstance(before, dict) else {}


def _approval(chain: Chain, run: str) -> Approval:
    """The last response of the run."""
    decisions = [
        entry.body.get("decision")
        for entry in chain.entries
        if entry.run == run and entry.kind == "approval_response" and isinstance(entry.body, dict)
    ]
    last = decisions[-1] if decisions else None
    return "approved" if last == "approve" else "rejected" if last == "reject" else "not approved"


@dataclass(frozen=True)
class LiveKey:
    """What there is of one crypto key."""

    key: Result[CryptoKey | None]
    policy: Result[policy_pb2.Policy] | None = None
    versions: Result[list[KeyVersion]] | None = None


@dataclass(frozen=True)
class LiveResources:
    """What there is of all that was made."""

    organization_label: str
    external_keys: dict[str, ExternalKey]
    """By id, all of the organization."""
    keys: dict[str, LiveKey]
    """By name."""
    rings: dict[str, Result[tuple[str, ...] | None]]
    """The keys in each ring; None when there is no such ring."""

    def in_use(self, made: Made) -> bool:
        """Whether a workspace has the key, or a key of the ring.

        Of an external key only the live one counts: its record may say anything.
        """
        name: str | None = made.key_name
        if made.kind == "external key":
            found = self.external_keys.get(made.resource)
            if found is None or found.is_attached:
                return found is not None
            name = found.gcp_key_name
        used = (one.gcp_key_name for one in self.external_keys.values() if one.is_attached)
        return name is not None and any(_is_in(one, name) for one in used if one is not None)


def _is_in(used: str, name: str) -> bool:
    """Whether a key is that key, or in that ring; a project's number may stand for its id."""
    (project, place), (other, wanted) = _parts(used), _parts(name)
    alike = project == other or project.isdigit() is not other.isdigit()
    return alike and f"{place}/".startswith(f"{wanted}/")


def _parts(name: str) -> tuple[str, str]:
    """The project of `projects/P/…`, and where in it."""
    project, _, place = name.removeprefix("projects/").partition("/")
    return project, place


async def read_live(made: Collection[Made], admin: AdminApi, kms: CloudKms) -> LiveResources:
    """Read what is still there; a refused read stays a refusal, so that nothing is overlooked.

    Raises:
        AdminApiError: The external keys can't be listed.
    """
    label, _ = organization_label((await admin.organization.me()).id)
    external = {key.id: key async for key in admin.external_keys.list()}
    live = LiveResources(label, external, {}, {})
    wanted = [one for one in made if one.is_readable and not live.in_use(one)]
    rings = sorted({one.resource for one in wanted if one.kind == "key ring"})
    keys = sorted({one.resource for one in wanted if key_in(one.resource)})
    found = await asyncio.gather(*(_read_key(kms, name) for name in keys))
    listed = await asyncio.gather(*(try_read(_read_ring(kms, name)) for name in rings))
    by_name = dict(zip(keys, found, strict=True)), dict(zip(rings, listed, strict=True))
    return LiveResources(label, external, *by_name)


async def _read_key(kms: CloudKms, name: str) -> LiveKey:
    key = await try_read(kms.get_crypto_key(name))
    if ok_value(key) is None:
        return LiveKey(key)
    policy, versions = await asyncio.gather(
        try_read(kms.get_iam_policy(name)), try_read(kms.list_crypto_key_versions(name))
    )
    return LiveKey(key, policy, versions)


async def _read_ring(kms: CloudKms, name: str) -> tuple[str, ...] | None:
    if await kms.get_key_ring(name) is None:
        return None
    return tuple([key.name async for key in kms.list_crypto_keys(name)])


def find_leftovers(made: Iterable[Made], live: LiveResources) -> tuple[Leftover, ...]:
    """What is still there and used by nothing, key by key, in the order to take it back.

    What two runs made of one key is named once, by the run that made it first.
    """
    first: dict[tuple[str, str], Made] = {}
    for one in sorted(made, key=lambda one: one.at):
        first.setdefault((one.kind, one.resource), one)
    rings = {one.resource for one in first.values() if one.kind == "key ring"}

    def order(one: Made) -> tuple[str, int, str, int]:
        ring = one.key_name.partition("/cryptoKeys/")[0]
        return (ring, int(one.resource in rings), one.key_name, _ORDER.index(one.kind))

    found = (_leftover(one, live) for one in sorted(first.values(), key=order))
    return tuple(one for one in found if one is not None)


def _leftover(made: Made, live: LiveResources) -> Leftover | None:
    if live.in_use(made):
        return None
    found = _TAKE_BACK[made.kind](made, live) if made.is_readable else _NOT_NAMED
    if found is None:
        return None
    return Leftover(
        kind=made.kind,
        resource=made.resource,
        since=made.at,
        run=made.run,
        subject=made.subject,
        approval=made.approval,
        take_back=() if isinstance(found, str) else found,
        remark=found if isinstance(found, str) else _FOR_EVER[made.kind],
    )


_NOT_NAMED: Final = (
    "The record names nothing of this kind, so nothing was read and no command is given. Find out "
    "who changed the record: `cmek evidence export` writes it to a file."
)
Found = tuple[str, ...] | str | None
"""The commands that take it back, or why none is given; None when nothing is left."""


def _external_key(made: Made, live: LiveResources) -> Found:
    if made.resource not in live.external_keys:
        return None
    url = f"{ADMIN_API}{EXTERNAL_KEYS_PATH}/{made.resource}"
    return (f"curl -sS -X DELETE {url} {ADMIN_HEADERS}",)


def _key_ring(made: Made, live: LiveResources) -> Found:
    read = live.rings[made.resource]
    if isinstance(read, Failed):
        return _unread(read)
    return None if read.value is None else ()


def _unread(read: object) -> str:
    return f"It could not be read, so no command is given: {read}"


def _grants(made: Made, live: LiveResources) -> Found:
    read = live.keys[made.key_name]
    if isinstance(read.key, Failed) or isinstance(read.policy, Failed):
        return _unread(read.key if isinstance(read.key, Failed) else read.policy)
    policy = ok_value(read.policy)
    held = unconditional_roles(policy, MEMBER) if policy else ()
    return tuple(revoke(made.key_name, MEMBER, role) for role in ROLES if role in held) or None


def _label(made: Made, live: LiveResources) -> Found:
    read = live.keys[made.key_name].key
    if isinstance(read, Failed):
        return _unread(read)
    if read.value is None or live.organization_label not in read.value.labels:
        return None
    removal = f"--remove-labels={live.organization_label}"
    return (on_key(KeyName.parse(made.key_name), "update", removal),)


def _crypto_key(made: Made, live: LiveResources) -> Found:
    """No command for a key that others may have used: what they encrypted would be lost."""
    read = live.keys[made.key_name]
    if isinstance(read.key, Ok) and read.key.value is None:
        return None
    policy, versions, key = ok_value(read.policy), ok_value(read.versions), ok_value(read.key)
    if policy is None or versions is None or key is None:
        return _unread(
            ", ".join(str(one) for one in vars(read).values() if isinstance(one, Failed))
        )
    if others := other_users(policy):
        return f"{', '.join(others)} may have used it: ask them before a version is destroyed."
    name = KeyName.parse(made.key_name)
    left = [on_version(name, "destroy", one.id) for one in versions if one.state not in _GONE]
    if left and key.rotation_period:
        left.insert(0, on_key(name, "update", "--remove-rotation-schedule"))
    return tuple(left) or None


_TAKE_BACK: Final[dict[LeftoverKind, Callable[[Made, LiveResources], Found]]] = {
    "external key": _external_key,
    "grants": _grants,
    "organization label": _label,
    "crypto key": _crypto_key,
    "key ring": _key_ring,
}
