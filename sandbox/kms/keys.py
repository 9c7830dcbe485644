"""Locations, key rings and crypto keys: create, read, list, update, choose the primary version.

Sources for the accepted values and the defaults: the comments on `CryptoKey` in google-cloud-kms
and https://docs.cloud.google.com/kms/docs/destroy-restore (destruction after 24 hours to 120 days,
30 days by default).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from google.cloud import kms_v1
from google.cloud.location import locations_pb2

from sandbox.errors import already_exists, invalid, not_found
from sandbox.kms.lists import paginate
from sandbox.kms.operations import permitted
from sandbox.kms.state import LOCATIONS, check_id, location_of, project_of
from sandbox.kms.versions import (
    Level,
    State,
    check_place,
    find_key,
    is_external,
    new_version,
    settle,
    with_primary,
)
from sandbox.world import World

Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
Algorithm = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm

DEFAULT_DESTROY_DELAY: Final = timedelta(days=30)
_DESTROY_DELAY: Final = (timedelta(hours=24), timedelta(days=120))
_ROTATION: Final = (timedelta(hours=24), timedelta(hours=876_000))
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")
_MOST_LABELS: Final = 64


@permitted("cloudkms.locations.list", "GET /v1/{name=Project}/locations", anyone=True)
def list_locations(
    world: World, project: str, request: locations_pb2.ListLocationsRequest
) -> locations_pb2.ListLocationsResponse:
    """All locations of Cloud KMS."""
    locations = [_location(world, f"{project}/locations/{one}") for one in LOCATIONS]
    page = paginate(locations, project, request)
    token = page.next_page_token
    return locations_pb2.ListLocationsResponse(locations=page.items, next_page_token=token)


@permitted("cloudkms.locations.get", "GET /v1/{name=Location}", anyone=True)
def get_location(
    world: World, name: str, _: locations_pb2.GetLocationRequest
) -> locations_pb2.Location:
    """One location with what it offers."""
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


@permitted("cloudkms.keyRings.create", "POST /v1/{parent=Location}/keyRings", body="key_ring")
def create_key_ring(
    world: World, location: str, request: kms_v1.CreateKeyRingRequest
) -> kms_v1.KeyRing:
    """Make a key ring."""
    name = f"{location}/keyRings/{check_id(request.key_ring_id, 'key_ring_id')}"
    world.kms.constraints.check_location(
        location_of(location), "key ring", project_of(world, location).number
    )
    if name in world.kms.key_rings:
        raise already_exists("KeyRing", name)
    ring = kms_v1.KeyRing(name=name, create_time=world.clock.now())
    world.kms.key_rings[name] = ring
    return ring


@permitted("cloudkms.keyRings.get", "GET /v1/{name=KeyRing}")
def get_key_ring(world: World, name: str, _: kms_v1.GetKeyRingRequest) -> kms_v1.KeyRing:
    """One key ring."""
    return find_ring(world, name)


@permitted("cloudkms.keyRings.list", "GET /v1/{parent=Location}/keyRings")
def list_key_rings(
    world: World, location: str, request: kms_v1.ListKeyRingsRequest
) -> kms_v1.ListKeyRingsResponse:
    """A page of the location's key rings."""
    page = paginate(
        [ring for name, ring in world.kms.key_rings.items() if name.startswith(f"{location}/")],
        location,
        request,
    )
    return kms_v1.ListKeyRingsResponse(key_rings=page.items, **page.facts)


def find_ring(world: World, name: str) -> kms_v1.KeyRing:
    """The stored key ring. Raises NOT_FOUND."""
    if name not in world.kms.key_rings:
        raise not_found("KeyRing", name)
    return world.kms.key_rings[name]


@permitted("cloudkms.cryptoKeys.create", "POST /v1/{parent=KeyRing}/cryptoKeys", body="crypto_key")
def create_crypto_key(
    world: World, ring: str, request: kms_v1.CreateCryptoKeyRequest
) -> kms_v1.CryptoKey:
    """Make a key and, unless the request skips it, its first version, which becomes the primary."""
    find_ring(world, ring)
    name = f"{ring}/cryptoKeys/{check_id(request.crypto_key_id, 'crypto_key_id')}"
    # the name of a deleted key can never be used again
    retired = (one.original_resource for one in world.kms.retired.values())
    if name in world.kms.crypto_keys or name in retired:
        raise already_exists("CryptoKey", name)
    if request.crypto_key.import_only and not request.skip_initial_version_creation:
        raise invalid("An import_only key must be created with skip_initial_version_creation.")
    key = _new_key(world, name, request.crypto_key)
    # Its first version would have to name a key of the external manager; this request cannot.
    if is_external(key) and not request.skip_initial_version_creation:
        raise invalid(
            f"A CryptoKey of protection level {Level(key.version_template.protection_level).name} "
            "must be created with skip_initial_version_creation."
        )
    world.kms.crypto_keys[name] = key
    world.kms.versions[name] = {}
    if not request.skip_initial_version_creation:
        version = new_version(world, key, world.clock.now())
        if key.purpose == Purpose.ENCRYPT_DECRYPT:
            key.primary = kms_v1.CryptoKeyVersion(name=version.name)
    return with_primary(world, key)


@permitted("cloudkms.cryptoKeys.get", "GET /v1/{name=CryptoKey}")
def get_crypto_key(world: World, name: str, _: kms_v1.GetCryptoKeyRequest) -> kms_v1.CryptoKey:
    """One key with its primary version."""
    return with_primary(world, find_key(world, name))


@permitted("cloudkms.cryptoKeys.list", "GET /v1/{parent=KeyRing}/cryptoKeys")
def list_crypto_keys(
    world: World, ring: str, request: kms_v1.ListCryptoKeysRequest
) -> kms_v1.ListCryptoKeysResponse:
    """A page of the ring's keys."""
    find_ring(world, ring)
    keys = [key for name, key in world.kms.crypto_keys.items() if name.startswith(f"{ring}/")]
    for key in keys:
        settle(world, key)
    page = paginate([with_primary(world, key) for key in keys], ring, request)
    return kms_v1.ListCryptoKeysResponse(crypto_keys=page.items, **page.facts)


@permitted("cloudkms.cryptoKeys.update", "PATCH /v1/{crypto_key.name=CryptoKey}", body="crypto_key")
def update_crypto_key(
    world: World, name: str, request: kms_v1.UpdateCryptoKeyRequest
) -> kms_v1.CryptoKey:
    """Change the fields in the mask; `labels` replaces all labels. There is no etag."""
    stored = find_key(world, name)
    changed = kms_v1.CryptoKey(stored)  # a copy: a refused field must leave the key unchanged
    paths = set(request.update_mask.paths)
    _apply(changed, request.crypto_key, paths)
    _check_labels(changed)
    if paths & {"rotation_period", "next_rotation_time"}:
        now = world.clock.now()
        _set_rotation(changed, changed.rotation_period, changed.next_rotation_time, now)
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


@permitted("cloudkms.cryptoKeys.update", "POST /v1/{name=CryptoKey}:updatePrimaryVersion")
def update_crypto_key_primary_version(
    world: World, name: str, request: kms_v1.UpdateCryptoKeyPrimaryVersionRequest
) -> kms_v1.CryptoKey:
    """Make another version the primary, which encrypts from now on."""
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


def _new_key(world: World, name: str, asked: kms_v1.CryptoKey) -> kms_v1.CryptoKey:
    """The key to store: output-only fields dropped, defaults filled in, the rest checked."""
    if asked.purpose == Purpose.CRYPTO_KEY_PURPOSE_UNSPECIFIED:
        raise invalid("The purpose of a CryptoKey is required.")
    delay = asked.destroy_scheduled_duration or DEFAULT_DESTROY_DELAY
    key = kms_v1.CryptoKey(
        name=name,
        create_time=world.clock.now(),
        purpose=asked.purpose,
        version_template=_template(asked),
        labels=dict(asked.labels),
        import_only=asked.import_only,
        destroy_scheduled_duration=delay,
        crypto_key_backend=asked.crypto_key_backend,
    )
    if "key_access_justifications_policy" in asked:
        key.key_access_justifications_policy = asked.key_access_justifications_policy
    if not _DESTROY_DELAY[0] <= delay <= _DESTROY_DELAY[1]:
        raise invalid(f"destroy_scheduled_duration {delay} is not between 24 hours and 120 days.")
    _check_labels(key)
    _set_rotation(key, asked.rotation_period, asked.next_rotation_time, world.clock.now())
    check_place(world, key)
    number = project_of(world, name).number
    world.kms.constraints.check_destroy_duration(delay, number)
    return key


def _template(asked: kms_v1.CryptoKey) -> kms_v1.CryptoKeyVersionTemplate:
    template = kms_v1.CryptoKeyVersionTemplate(asked.version_template)
    if template.protection_level == Level.PROTECTION_LEVEL_UNSPECIFIED:
        template.protection_level = Level(Level.SOFTWARE)
    symmetric = asked.purpose == Purpose.ENCRYPT_DECRYPT
    fitting = Algorithm.GOOGLE_SYMMETRIC_ENCRYPTION
    if template.protection_level in {Level.EXTERNAL, Level.EXTERNAL_VPC}:
        fitting = Algorithm.EXTERNAL_SYMMETRIC_ENCRYPTION
    unset = template.algorithm == Algorithm.CRYPTO_KEY_VERSION_ALGORITHM_UNSPECIFIED
    if unset and not symmetric:
        raise invalid("version_template.algorithm is required for this purpose.")
    if unset:
        template.algorithm = Algorithm(Algorithm.GOOGLE_SYMMETRIC_ENCRYPTION)
    if symmetric != (template.algorithm == fitting):
        raise invalid(
            f"Algorithm {Algorithm(template.algorithm).name} does not fit the purpose "
            f"{Purpose(asked.purpose).name}."
        )
    return template


def _check_labels(key: kms_v1.CryptoKey) -> None:
    """At most 64 labels, lower-case keys that start with a letter, lower-case values."""
    if len(key.labels) > _MOST_LABELS:
        raise invalid(f"{len(key.labels)} labels are more than {_MOST_LABELS}.")
    for label, value in key.labels.items():
        if not _LABEL_KEY.fullmatch(label) or not _LABEL_VALUE.fullmatch(value):
            raise invalid(f"Label '{label}'='{value}' is malformed.")


def _set_rotation(
    key: kms_v1.CryptoKey, period: timedelta, first: datetime | None, now: datetime
) -> None:
    """Set or remove the rotation schedule. Raises INVALID_ARGUMENT as Cloud KMS does."""
    if not period and first is None:
        key.rotation_period = key.next_rotation_time = None
        return
    if key.purpose != Purpose.ENCRYPT_DECRYPT:
        raise invalid("Only a key of purpose ENCRYPT_DECRYPT can rotate by itself.")
    if not period or first is None:
        raise invalid("rotation_period and next_rotation_time must be set together.")
    if not _ROTATION[0] <= period <= _ROTATION[1]:
        raise invalid(f"rotation_period {period} is not between 24 hours and 876000 hours.")
    if first <= now:
        raise invalid(f"next_rotation_time {first.isoformat()} is not in the future.")
    key.rotation_period, key.next_rotation_time = period, first
