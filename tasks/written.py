"""What guide steps 1 to 5 wrote, as events; nothing for what was there already."""

from __future__ import annotations

from cmek.anthropic.models import ExternalKey
from cmek.anthropic_identity import MEMBER, ROLES
from cmek.evidence.events import ADMIN, KMS, wrote
from cmek.evidence.record import Event
from tasks.crypto_key import EnsuredKey


def ring_written(name: str, *, created: bool) -> tuple[Event, ...]:
    """Step 1."""
    if not created:
        return ()
    return (wrote(KMS, "CreateKeyRing", name, before=None, after={"name": name}),)


def key_written(key: EnsuredKey) -> tuple[Event, ...]:
    """Step 2: created, or an existing key labelled."""
    name, after = key.key.name, key.key
    if key.created:
        return (wrote(KMS, "CreateCryptoKey", name, before=None, after=after),)
    if key.label_added:
        before = {"users": key.users_before}
        return (wrote(KMS, "UpdateCryptoKey", name, before=before, after=after),)
    return ()


def grants_written(key_name: str, *, written: bool) -> tuple[Event, ...]:
    """Step 3."""
    if not written:
        return ()
    before = {"member": MEMBER, "lacked": "one or both of the roles"}
    after = {"member": MEMBER, "roles": ROLES}
    return (wrote(KMS, "SetIamPolicy", key_name, before=before, after=after),)


def registration_written(key_name: str, key: ExternalKey, *, created: bool) -> tuple[Event, ...]:
    """Step 5."""
    if not created:
        return ()
    after = {"external_key_id": key.id, "key_name": key_name}
    action, request_id = "external_keys.create", key.request_id
    return (wrote(ADMIN, action, key.id, before=None, after=after, request_id=request_id),)
