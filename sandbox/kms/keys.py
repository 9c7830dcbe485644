"""Locations and key rings: what holds the keys. Guide step 1.

Crypto keys: create, read, list, update, choose the primary version. Guide steps 2 and 4.
"""

from __future__ import annotations

from google.cloud import kms_v1
from google.cloud.location import locations_pb2

from sandbox.errors import already_exists, invalid, not_found
from sandbox.iam import authorize, check_service
from sandbox.identities import Identity
from sandbox.kms.lists import paginate
from sandbox.kms.rules import Purpose, check_labels, new_key, set_rotation
from sandbox.kms.state import LOCATIONS, canonical, check_id, location_of, project_of
from sandbox.kms.versions import State, find_key, new_version, settle, with_primary
from sandbox.world import World


def list_locations(
    world: World, caller: Identity, request: locations_pb2.ListLocationsRequest
) -> locations_pb2.ListLocationsResponse:
    """All locations of Cloud KMS; needs no permission."""
    project = canonical(world, request.name, "Project", "cloudkms.locations.list")
    check_service(world, caller, project)
    page = paginate(
        [_location(world, f"{project}/locations/{location}") for location in LOCATIONS],
        project,
        request,
    )
    return locations_pb2.ListLocationsResponse(
        locations=page.items, next_page_token=page.next_page_token
    )


def get_location(
    world: World, caller: Identity, request: locations_pb2.GetLocationRequest
) -> locations_pb2.Location:
    """One location with what it offers; needs no permission."""
    name = canonical(world, request.name, "Location", "cloudkms.locations.get")
    check_service(world, caller, name)
    return _location(world, name)


def _location(world: World, name: str) -> locations_pb2.Location:
    location_id = location_of(name)
    location = locations_pb2.Location(name=name, location_id=location_id, display_name=location_id)
    metadata = kms_v1.LocationMetadata(
        hsm_available=location_id not in world.kms.locations_without_hsm,
        ekm_available=location_id != "global",
    )
    location.metadata.Pack(kms_v1.LocationMetadata.pb(metadata))
    return location


def create_key_ring(
    world: World, caller: Identity, request: kms_v1.CreateKeyRingRequest
) -> kms_v1.KeyRing:
    """Make a key ring; its name stays taken for ever."""
    permission = "cloudkms.keyRings.create"
    location = canonical(world, request.parent, "Location", permission)
    authorize(world, caller, permission, location)
    name = f"{location}/keyRings/{check_id(request.key_ring_id, 'key_ring_id')}"
    world.kms.constraints.check_location(
        location_of(location), "key ring", project_of(world, location).number
    )
    if name in world.kms.key_rings:
        raise already_exists("KeyRing", name)
    ring = kms_v1.KeyRing(name=name, create_time=world.clock.now())
    world.kms.key_rings[name] = ring
    return ring


def get_key_ring(
    world: World, caller: Identity, request: kms_v1.GetKeyRingRequest
) -> kms_v1.KeyRing:
    """One key ring."""
    permission = "cloudkms.keyRings.get"
    name = canonical(world, request.name, "KeyRing", permission)
    authorize(world, caller, permission, name)
    return find_ring(world, name)


def list_key_rings(
    world: World, caller: Identity, request: kms_v1.ListKeyRingsRequest
) -> kms_v1.ListKeyRingsResponse:
    """A page of the location's key rings."""
    permission = "cloudkms.keyRings.list"
    location = canonical(world, request.parent, "Location", permission)
    authorize(world, caller, permission, location)
    page = paginate(
        [ring for name, ring in world.kms.key_rings.items() if name.startswith(f"{location}/")],
        location,
        request,
    )
    return kms_v1.ListKeyRingsResponse(
        key_rings=page.items, next_page_token=page.next_page_token, total_size=page.total_size
    )


def find_ring(world: World, name: str) -> kms_v1.KeyRing:
    """The stored key ring.

    Raises:
        GoogleError: NOT_FOUND.
    """
    ring = world.kms.key_rings.get(name)
    if ring is None:
        raise not_found("KeyRing", name)
    return ring


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
