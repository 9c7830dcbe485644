"""Leftovers: what onboardings created and no workspace uses, with the commands that remove it.

The records say what was created, by which run, and whether it was approved; live reads say what
still exists and whether anything uses it. Nothing here writes: a person decides, and runs the
commands in their order.

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
"""The kind of leftover for each action of a write. The order is the safe order of removal: first
the external key, so that the key can't be attached any more; then Anthropic's access; then the key.
"""
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
    """One thing that an onboarding created, according to its record."""

    kind: LeftoverKind
    resource: str
    """The id of an external key; of everything else the full resource name."""
    key_name: str
    """The crypto key that it belongs to; for a ring the name of the ring."""
    at: datetime
    run: str
    subject: str
    """The request's subject: the workspace's id, or `new:NAME`."""
    approval: Approval

    @property
    def is_readable(self) -> bool:
        """Whether the name is valid for this kind; a forged record could have any text there."""
        if self.kind == "external key":
            return rule_of(ExternalKeyId).fits(self.resource)
        if self.kind == "key ring":
            return key_in(f"{self.resource}/cryptoKeys/any") is not None
        return key_in(self.resource) is not None


class Leftover(FrozenModel):
    """Something that an onboarding created, that still exists, and that nothing uses."""

    kind: LeftoverKind
    resource: str
    since: datetime
    run: str
    subject: str
    approval: Approval
    take_back: tuple[str, ...]
    """Commands in their order; empty when there is nothing to do, or no safe command."""
    remark: str = ""
    """What can't be undone, or why there is no command."""


class _Write(BaseModel):
    action: str
    resource: str
    after: dict[str, object] | None = None


def made_by(subject: str, chain: Chain) -> Iterator[Made]:
    """What the runs of one workspace created, according to their record.

    Whether it is in use is not in the record: `find_leftovers` decides that by live reads.
    """
    for entry in chain.entries:
        write = _write(entry)
        if write is None or write.action not in _KINDS:
            continue
        kind = _KINDS[write.action]
        if kind == "organization label" and "users" not in _before(entry):
            continue  # the label that marks an attached key, not the organization label
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
    """The crypto key; for an external key the one for which it was registered."""
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
    """The decision of the run's last response."""
    decisions = [
        entry.body.get("decision")
        for entry in chain.entries
        if entry.run == run and entry.kind == "approval_response" and isinstance(entry.body, dict)
    ]
    last = decisions[-1] if decisions else None
    return "approved" if last == "approve" else "rejected" if last == "reject" else "not approved"


@dataclass(frozen=True)
class LiveKey:
    """What exists of one crypto key now."""

    key: Result[CryptoKey | None]
    policy: Result[policy_pb2.Policy] | None = None
    versions: Result[list[KeyVersion]] | None = None


@dataclass(frozen=True)
class LiveResources:
    """What exists now of everything that was created."""

    organization_label: str
    external_keys: dict[str, ExternalKey]
    """All external keys of the organization, by id."""
    keys: dict[str, LiveKey]
    """By name."""
    rings: dict[str, Result[tuple[str, ...] | None]]
    """The keys in each ring; None when there is no such ring."""

    def in_use(self, made: Made) -> bool:
        """Whether a workspace uses the key, or any key of the ring.

        For an external key the live object decides: the record may be forged.
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
    """Whether a key is that key, or in that ring; one name may have the project's number."""
    (project, place), (other, wanted) = _parts(used), _parts(name)
    # a number and an id may be the same project: then rather nothing is removed
    alike = project == other or project.isdigit() is not other.isdigit()
    return alike and f"{place}/".startswith(f"{wanted}/")


def _parts(name: str) -> tuple[str, str]:
    """The project of `projects/P/…`, and the rest of the name."""
    project, _, place = name.removeprefix("projects/").partition("/")
    return project, place


async def read_live(made: Collection[Made], admin: AdminApi, kms: CloudKms) -> LiveResources:
    """Read what still exists; a refused read is kept as `Failed`, so that it is reported.

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
    """What still exists and nothing uses, key by key, in the order of removal.

    What two runs have recorded is listed once, for the run that created it first.
    """
    first: dict[tuple[str, str], Made] = {}
    for one in sorted(made, key=lambda one: one.at):
        first.setdefault((one.kind, one.resource), one)
    rings = {one.resource for one in first.values() if one.kind == "key ring"}

    def order(one: Made) -> tuple[str, int, str, int]:
        # ring by ring: first what belongs to its keys, the ring itself last
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
"""The commands that remove it, or why there are none; None when nothing is left."""


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
        # first of all: a rotation would make a new version after the others are destroyed
        left.insert(0, on_key(name, "update", "--remove-rotation-schedule"))
    return tuple(left) or None


_TAKE_BACK: Final[dict[LeftoverKind, Callable[[Made, LiveResources], Found]]] = {
    "external key": _external_key,
    "grants": _grants,
    "organization label": _label,
    "crypto key": _crypto_key,
    "key ring": _key_ring,
}
