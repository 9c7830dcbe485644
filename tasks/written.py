"""What guide steps 1 to 5 wrote, as events; nothing for what was there already."""

from __future__ import annotations

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.evidence.entry import Event
from cmek.evidence.events import ADMIN, KMS, wrote
from tasks.crypto_key import EnsuredKey
from tasks.grants import EnsuredGrants
from tasks.key_ring import EnsuredKeyRing
from tasks.registration import Registration


def ring_written(ring: EnsuredKeyRing) -> tuple[Event, ...]:
    """Step 1."""
    if not ring.created:
        return ()
    return (wrote(KMS, "CreateKeyRing", ring.name, before=None, after={"name": ring.name}),)


def key_written(key: EnsuredKey) -> tuple[Event, ...]:
    """Step 2: created, or an existing key labelled."""
    name, after = key.key.name, key.key
    if key.created:
        return (wrote(KMS, "CreateCryptoKey", name, before=None, after=after),)
    if key.label_added:
        before = {"users": key.users_before}
        return (wrote(KMS, "UpdateCryptoKey", name, before=before, after=after),)
    return ()


def grants_written(key_name: str, grants: EnsuredGrants) -> tuple[Event, ...]:
    """Step 3."""
    if not grants.written:
        return ()
    before = {"member": MEMBER, "lacked": "one or both of the roles"}
    after = {"member": MEMBER, "roles": ROLES}
    return (wrote(KMS, "SetIamPolicy", key_name, before=before, after=after),)


def registration_written(key_name: str, registration: Registration) -> tuple[Event, ...]:
    """Step 5."""
    if not registration.created:
        return ()
    external = registration.external_key_id
    after = {"external_key_id": external, "key_name": key_name}
    request_id = registration.request_id
    action = "external_keys.create"
    return (wrote(ADMIN, action, external, before=None, after=after, request_id=request_id),)
