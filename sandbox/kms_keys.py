"""Crypto keys: create, read, list, update, choose the primary version. Guide steps 2 and 4."""

from __future__ import annotations

from google.cloud import kms_v1

from sandbox.iam_access import authorize
from sandbox.identities import Identity
from sandbox.kms_errors import already_exists, invalid
from sandbox.kms_key_rings import find_ring
from sandbox.kms_key_rules import Purpose, check_labels, new_key, set_rotation
from sandbox.kms_lifecycle import State, find_key, new_version, settle, with_primary
from sandbox.kms_lists import paginate
from sandbox.kms_names import canonical, check_id
from sandbox.world import World


def create_crypto_key(
    world: World, caller: Identity, request: kms_v1.CreateCryptoKeyRequest
) -> kms_v1.CryptoKey:
    """Make a key and, unless told otherwise, its first version, which becomes the primary."""
    permission = "cloudkms.cryptoKeys.create"
    ring = canonical(world, request.parent, "KeyRing", permission)
    authorize(world, caller, permission, ring)
    find_ring(world, ring)
    name = f"{ring}/cryptoKeys/{check_id(request.crypto_key_id, 'crypto_key_id')}"
    if name in world.kms.crypto_keys:
        raise already_exists("CryptoKey", name)
    if request.crypto_key.import_only and not request.skip_initial_version_creation:
        raise invalid("An import_only key must be created with skip_initial_version_creation.")
    key = new_key(world, name, request.crypto_key)
    world.kms.crypto_keys[name] = key
    world.kms.versions[name] = {}
    if not request.skip_initial_version_creation:
        version = new_version(world, key, world.clock.now())
        if key.purpose == Purpose.ENCRYPT_DECRYPT:
            key.primary = kms_v1.CryptoKeyVersion(name=version.name)
    return with_primary(world, key)


def get_crypto_key(
    world: World, caller: Identity, request: kms_v1.GetCryptoKeyRequest
) -> kms_v1.CryptoKey:
    """One key with its primary version."""
    permission = "cloudkms.cryptoKeys.get"
    name = canonical(world, request.name, "CryptoKey", permission)
    authorize(world, caller, permission, name)
    return with_primary(world, find_key(world, name))


def list_crypto_keys(
    world: World, caller: Identity, request: kms_v1.ListCryptoKeysRequest
) -> kms_v1.ListCryptoKeysResponse:
    """A page of the ring's keys."""
    permission = "cloudkms.cryptoKeys.list"
    ring = canonical(world, request.parent, "KeyRing", permission)
    authorize(world, caller, permission, ring)
    find_ring(world, ring)
    keys = [key for name, key in world.kms.crypto_keys.items() if name.startswith(f"{ring}/")]
    for key in keys:
        settle(world, key)
    page = paginate(
        [with_primary(world, key) for key in keys],
        ring,
        request,
    )
    return kms_v1.ListCryptoKeysResponse(
        crypto_keys=page.items, next_page_token=page.next_page_token, total_size=page.total_size
    )


def update_crypto_key(
    world: World, caller: Identity, request: kms_v1.UpdateCryptoKeyRequest
) -> kms_v1.CryptoKey:
    """Change the fields in the mask; `labels` replaces all labels. There is no etag."""
    permission = "cloudkms.cryptoKeys.update"
    name = canonical(world, request.crypto_key.name, "CryptoKey", permission)
    authorize(world, caller, permission, name)
    stored = find_key(world, name)
    changed = kms_v1.CryptoKey(stored)
    paths = set(request.update_mask.paths)
    _apply(changed, request.crypto_key, paths)
    check_labels(changed)
    if paths & {"rotation_period", "next_rotation_time"}:
        now = world.clock.now()
        set_rotation(changed, changed.rotation_period, changed.next_rotation_time, now)
    world.kms.crypto_keys[name] = changed
    return with_primary(world, changed)


def _apply(key: kms_v1.CryptoKey, asked: kms_v1.CryptoKey, paths: set[str]) -> None:
    if not paths:
        raise invalid("The update_mask is required and must not be empty.")
    for path in sorted(paths):
        if path == "labels":
            key.labels = dict(asked.labels)
        elif path in {"rotation_period", "next_rotation_time", "key_access_justifications_policy"}:
            setattr(key, path, getattr(asked, path) if path in asked else None)
        elif path in {"version_template", "version_template.algorithm"}:
            _change_algorithm(key, asked)
        else:
            raise invalid(f"The field '{path}' of a CryptoKey is immutable or unknown.")


def _change_algorithm(key: kms_v1.CryptoKey, asked: kms_v1.CryptoKey) -> None:
    wanted = asked.version_template
    level = wanted.protection_level or key.version_template.protection_level
    if level != key.version_template.protection_level:
        raise invalid("version_template.protection_level is immutable.")
    if key.purpose == Purpose.ENCRYPT_DECRYPT and (
        wanted.algorithm != key.version_template.algorithm
    ):
        raise invalid("The algorithm does not fit the purpose of the CryptoKey.")
    key.version_template.algorithm = wanted.algorithm


def update_crypto_key_primary_version(
    world: World, caller: Identity, request: kms_v1.UpdateCryptoKeyPrimaryVersionRequest
) -> kms_v1.CryptoKey:
    """Encrypt with another version from now on."""
    permission = "cloudkms.cryptoKeys.update"
    name = canonical(world, request.name, "CryptoKey", permission)
    authorize(world, caller, permission, name)
    key = find_key(world, name)
    if key.purpose != Purpose.ENCRYPT_DECRYPT:
        raise invalid(
            f"CryptoKey {name} has no primary version: its purpose is not ENCRYPT_DECRYPT."
        )
    number = request.crypto_key_version_id
    version = world.kms.versions[name].get(int(number)) if number.isdecimal() else None
    if version is None:
        raise invalid(f"CryptoKey {name} has no version '{number}'.")
    if version.state != State.ENABLED:
        raise invalid(f"{version.name} is not enabled, so it can not become the primary version.")
    key.primary = kms_v1.CryptoKeyVersion(name=version.name)
    return with_primary(world, key)
