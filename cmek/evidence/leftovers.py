"""Leftovers: what onboardings created and no workspace uses, with the commands that remove it.

The records say what was created, by which run, and whether it was approved; live reads say what
still exists and whether anything uses it. Nothing here writes: a person decides, and runs the
commands in their order.

Whoever may write to Prefect may have written the records, and another organization may share a
key. So a command is given only where live reads show that nothing uses the resource, and one that
destroys only where the worker's own record says that an onboarding created the key.

Source: https://docs.cloud.google.com/kms/docs/delete-kms-resources and
https://platform.claude.com/docs/en/api/http/organization/external_keys/delete
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from google.iam.v1 import policy_pb2
from pydantic import BaseModel, ValidationError

from cmek._http import Failed, Ok, Result, ok_value, try_read
from cmek.addresses import ADMIN_API, ADMIN_HEADERS
from cmek.anthropic.client import EXTERNAL_KEYS_PATH, AdminApi
from cmek.anthropic.models import ExternalKey
from cmek.anthropic_identity import MEMBER, ROLES
from cmek.errors import CmekError, listed
from cmek.evidence.record import Chain, EvidenceEntry
from cmek.gcp.gcloud import key_in, on_key, on_version, revoke
from cmek.gcp.iam import unconditional_roles
from cmek.gcp.kms import CloudKms
from cmek.gcp.resources import CryptoKey, KeyVersion
from cmek.keys.conditions import has_organization_label, labels_of_others, other_users
from cmek.models import FrozenModel, rule_of, shown
from cmek.names import ExternalKeyId, KeyName, may_be_within, organization_label

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
    not_created: str = ""
    """Why it is not known as created by an onboarding, in the worker's own record; empty: it is."""


@dataclass(frozen=True)
class LiveResources:
    """What exists now of everything that was created."""

    organization: UUID
    external_keys: dict[str, ExternalKey]
    """All external keys of the organization, by id."""
    keys: dict[str, LiveKey]
    """By name."""
    rings: dict[str, Result[tuple[str, ...] | None]]
    """The keys in each ring; None when there is no such ring."""

    def in_use(self, made: Made) -> bool:
        """Whether a workspace uses the key, or any key of the ring."""
        return any(one.is_attached for one in self._registered(made))

    def may_be_used(self, made: Made) -> str:
        """Why it may be in use although no workspace is known to have it; else empty."""
        doubts = [
            f"{one.id} has the attachment {shown(one.attachment.type)}, which is neither "
            "`attached` nor `unattached`"
            for one in self._registered(made)
            if not (one.is_attached or one.is_unattached)
        ]
        key = ok_value(self.keys[made.resource].key) if made.resource in self.keys else None
        labels = labels_of_others(key, self.organization) if key else ()
        if labels:
            doubts.append(
                f"it has labels of another organization or of a workspace ({listed(labels)})"
            )
        return listed(doubts, separator="; ")

    def _registered(self, made: Made) -> list[ExternalKey]:
        """The external keys by which a workspace may have what was made.

        For an external key the live object decides: the record may be forged.
        """
        name = made.key_name
        if made.kind == "external key":
            live = self.external_keys.get(made.resource)
            if live is None or live.gcp_key_name is None:
                return [live] if live else []
            name = live.gcp_key_name
        every = self.external_keys.values()
        return [one for one in every if one.gcp_key_name and may_be_within(one.gcp_key_name, name)]


async def read_live(
    made: Collection[Made],
    admin: AdminApi,
    kms: CloudKms,
    was_created: Callable[[str], Awaitable[bool]],
) -> LiveResources:
    """Read what still exists; a refused read is kept as `Failed`, so that it is reported.

    Args:
        made: What the records say.
        admin: A client.
        kms: A client.
        was_created: Whether the worker's own record says that an onboarding created this crypto
            key; raises `CmekError` where that record can't be read.

    Raises:
        AdminApiError: The external keys can't be listed.
    """
    organization = (await admin.organization.me()).id
    external = {key.id: key async for key in admin.external_keys.list()}
    live = LiveResources(organization, external, {}, {})
    wanted = [one for one in made if one.is_readable and not live.in_use(one)]
    rings = sorted({one.resource for one in wanted if one.kind == "key ring"})
    keys = sorted({one.resource for one in wanted if key_in(one.resource)})
    found = await asyncio.gather(*(_read_key(kms, name, was_created) for name in keys))
    in_rings = await asyncio.gather(*(try_read(_read_ring(kms, name)) for name in rings))
    by_name = dict(zip(keys, found, strict=True)), dict(zip(rings, in_rings, strict=True))
    return LiveResources(organization, external, *by_name)


async def _read_key(
    kms: CloudKms, name: str, was_created: Callable[[str], Awaitable[bool]]
) -> LiveKey:
    key = await try_read(kms.get_crypto_key(name))
    if ok_value(key) is None:
        return LiveKey(key)
    policy, versions = await asyncio.gather(
        try_read(kms.get_iam_policy(name)), try_read(kms.list_crypto_key_versions(name))
    )
    try:
        not_created = "" if await was_created(name) else _NOT_CREATED
    except CmekError as error:
        not_created = f"{_NOT_CREATED} They can't be read here: {error}"
    return LiveKey(key, policy, versions, not_created)


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
    if found and (why := live.may_be_used(made)):
        found = f"It may be in use, so no command is given: {why}."
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
_NOT_CREATED: Final = (
    "No command is given: the worker's own records (CMEK_RECORDS) do not show here that an "
    "onboarding created this key, and what Prefect keeps may be forged. On another machine than "
    "the worker's, run `cmek leftovers` there, as its user."
)
Found = tuple[str, ...] | str | None
"""The commands that remove it, or why there are none; None when nothing is left."""


def _external_key(made: Made, live: LiveResources) -> Found:
    if made.resource not in live.external_keys:
        return None
    url = f"{ADMIN_API}{EXTERNAL_KEYS_PATH}/{made.resource}"
    return (f"curl -sS --fail-with-body -X DELETE {url} {ADMIN_HEADERS}",)


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
    label, _ = organization_label(live.organization)
    if read.value is None or label not in read.value.labels:
        return None
    return (on_key(KeyName.parse(made.key_name), "update", f"--remove-labels={label}"),)


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
    if not has_organization_label(key, live.organization):
        return "No command is given: the key does not carry this organization's label."
    if read.not_created:
        return read.not_created
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
