"""Key versions: create, read, list, enable, disable, schedule destruction, restore.

Nothing runs in the background: each operation first settles the key that it uses, that is, applies
everything that was due by now (the end of generation, rotation, destruction).
Sources: https://docs.cloud.google.com/kms/docs/key-states,
https://docs.cloud.google.com/kms/docs/org-policy-constraints (why a rotation can fail)
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from google.cloud import kms_v1

from sandbox.errors import GoogleError, invalid, not_found, precondition
from sandbox.kms.lists import paginate
from sandbox.kms.operations import permitted
from sandbox.kms.state import key_of, location_of, project_of
from sandbox.world import World

State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
Level = kms_v1.ProtectionLevel


def check_place(world: World, key: kms_v1.CryptoKey) -> None:
    """Raise INVALID_ARGUMENT if HSM is missing there, FAILED_PRECONDITION by an org policy."""
    location, number = location_of(key.name), project_of(world, key.name).number
    level = Level(key.version_template.protection_level)
    if level == Level.HSM and location in world.kms.locations_without_hsm:
        raise invalid(f"Protection level HSM is not available in location '{location}'.")
    world.kms.constraints.check_location(location, "crypto key version", number)
    world.kms.constraints.check_protection_level(level.name, number)


def find_key(world: World, name: str) -> kms_v1.CryptoKey:
    """The stored key, settled up to now. Raises NOT_FOUND."""
    key = world.kms.crypto_keys.get(name)
    if key is None:
        raise not_found("CryptoKey", name)
    settle(world, key)
    return key


def find_version(world: World, name: str) -> kms_v1.CryptoKeyVersion:
    """The stored version, its key settled up to now. Raises NOT_FOUND."""
    key = world.kms.crypto_keys.get(key_of(name))
    if key is None:
        raise not_found("CryptoKeyVersion", name)
    settle(world, key)
    version = world.kms.versions[key.name].get(int(name.rsplit("/", 1)[1]))
    if version is None:
        raise not_found("CryptoKeyVersion", name)
    return version


def with_primary(world: World, key: kms_v1.CryptoKey) -> kms_v1.CryptoKey:
    """A copy of the key as the API shows it, with its primary version filled in."""
    shown = kms_v1.CryptoKey(key)
    if "primary" in key:
        shown.primary = find_version(world, key.primary.name)
    return shown


def new_version(world: World, key: kms_v1.CryptoKey, at: datetime) -> kms_v1.CryptoKeyVersion:
    """Make the next version by the key's template, generated at once unless a switch delays it."""
    versions = world.kms.versions[key.name]
    # not the number of versions: the number of a deleted one is never used again
    number = world.kms.last_number.get(key.name, 0) + 1
    world.kms.last_number[key.name] = number
    wait = timedelta(seconds=world.switches.initial_version_pending_seconds)
    version = kms_v1.CryptoKeyVersion(
        name=f"{key.name}/cryptoKeyVersions/{number}",
        state=State.PENDING_GENERATION,
        protection_level=key.version_template.protection_level,
        algorithm=key.version_template.algorithm,
        create_time=at,
    )
    versions[number] = version
    world.kms.material[version.name] = secrets.token_bytes(32)
    world.kms.ready_at[version.name] = at + wait
    _finish_generation(world, version)
    return version


def settle(world: World, key: kms_v1.CryptoKey) -> None:
    """Apply to `key` everything that was due by now."""
    _rotate(world, key)
    for version in world.kms.versions[key.name].values():
        _finish_generation(world, version)
        if version.state == State.DESTROY_SCHEDULED and version.destroy_time <= world.clock.now():
            version.state = State(State.DESTROYED)
            version.destroy_event_time = version.destroy_time
            version.destroy_time = None
            world.kms.material.pop(version.name, None)


def _finish_generation(world: World, version: kms_v1.CryptoKeyVersion) -> None:
    ready = world.kms.ready_at.get(version.name)
    if ready is None or ready > world.clock.now():
        return
    del world.kms.ready_at[version.name]
    version.state = State(State.ENABLED)
    version.generate_time = ready


def _rotate(world: World, key: kms_v1.CryptoKey) -> None:
    """Make the primary versions that are due, unless an organization policy forbids new ones."""
    constraints, level = world.kms.constraints, Level(key.version_template.protection_level).name
    if not (
        key.rotation_period
        and constraints.allows_location(location_of(key.name))
        and constraints.allows_protection_level(level)
    ):
        return
    # one version for each missed period, created at the time when it was due
    while key.next_rotation_time <= world.clock.now():
        version = new_version(world, key, key.next_rotation_time)
        key.primary = kms_v1.CryptoKeyVersion(name=version.name)
        key.next_rotation_time += key.rotation_period


@permitted(
    "cloudkms.cryptoKeyVersions.create",
    "POST /v1/{parent=CryptoKey}/cryptoKeyVersions",
    body="crypto_key_version",
)
def create_crypto_key_version(
    world: World, name: str, request: kms_v1.CreateCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """Make the next version; it does not become the primary by itself."""
    key = find_key(world, name)
    options = request.crypto_key_version.external_protection_level_options
    if is_external(key):
        _check_external(key, options)
    if key.import_only:
        raise GoogleError("FAILED_PRECONDITION", f"CryptoKey {name} takes imported versions only.")
    check_place(world, key)
    version = new_version(world, key, world.clock.now())
    if is_external(key):
        version.external_protection_level_options = options
    return kms_v1.CryptoKeyVersion(version)


def is_external(key: kms_v1.CryptoKey) -> bool:
    """Whether the key material is held by an external key manager."""
    return key.version_template.protection_level in {Level.EXTERNAL, Level.EXTERNAL_VPC}


def _check_external(key: kms_v1.CryptoKey, options: kms_v1.ExternalProtectionLevelOptions) -> None:
    """Raise INVALID_ARGUMENT for a version that names no key of the external manager."""
    vpc = key.version_template.protection_level == Level.EXTERNAL_VPC
    field = "ekm_connection_key_path" if vpc else "external_key_uri"
    if not getattr(options, field):
        raise invalid(f"external_protection_level_options.{field} is required for this key.")


@permitted("cloudkms.cryptoKeyVersions.get", "GET /v1/{name=CryptoKeyVersion}")
def get_crypto_key_version(
    world: World, name: str, _: kms_v1.GetCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """One version."""
    return kms_v1.CryptoKeyVersion(find_version(world, name))


@permitted("cloudkms.cryptoKeyVersions.list", "GET /v1/{parent=CryptoKey}/cryptoKeyVersions")
def list_crypto_key_versions(
    world: World, name: str, request: kms_v1.ListCryptoKeyVersionsRequest
) -> kms_v1.ListCryptoKeyVersionsResponse:
    """A page of the key's versions, by number."""
    find_key(world, name)
    page = paginate(world.kms.versions[name].values(), name, request)
    return kms_v1.ListCryptoKeyVersionsResponse(crypto_key_versions=page.items, **page.facts)


@permitted(
    "cloudkms.cryptoKeyVersions.update",
    "PATCH /v1/{crypto_key_version.name=CryptoKeyVersion}",
    body="crypto_key_version",
)
def update_crypto_key_version(
    world: World, name: str, request: kms_v1.UpdateCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """Enable or disable a version: the only change that the sandbox supports."""
    asked = request.crypto_key_version
    version = find_version(world, name)
    if list(request.update_mask.paths) != ["state"]:
        raise invalid("The update_mask of a CryptoKeyVersion must be 'state'.")
    if asked.state not in {State.ENABLED, State.DISABLED}:
        raise invalid("A CryptoKeyVersion can be set to ENABLED or DISABLED only.")
    if version.state not in {State.ENABLED, State.DISABLED}:
        raise _wrong_state(version, "can not be enabled or disabled")
    version.state = asked.state
    return kms_v1.CryptoKeyVersion(version)


@permitted("cloudkms.cryptoKeyVersions.destroy", "POST /v1/{name=CryptoKeyVersion}:destroy")
def destroy_crypto_key_version(
    world: World, name: str, _: kms_v1.DestroyCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """Schedule the destruction of a version's key material."""
    version = find_version(world, name)
    if version.state not in {State.ENABLED, State.DISABLED}:
        raise _wrong_state(version, "can not be destroyed")
    if world.kms.constraints.disable_before_destroy and version.state == State.ENABLED:
        raise _wrong_state(version, "must be disabled before it is destroyed")
    delay = world.kms.crypto_keys[key_of(version.name)].destroy_scheduled_duration
    version.state = State(State.DESTROY_SCHEDULED)
    version.destroy_time = world.clock.now() + delay
    return kms_v1.CryptoKeyVersion(version)


@permitted("cloudkms.cryptoKeyVersions.restore", "POST /v1/{name=CryptoKeyVersion}:restore")
def restore_crypto_key_version(
    world: World, name: str, _: kms_v1.RestoreCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """Cancel a scheduled destruction; the version is disabled afterwards."""
    version = find_version(world, name)
    if version.state != State.DESTROY_SCHEDULED:
        raise _wrong_state(version, "is not scheduled for destruction")
    version.state = State(State.DISABLED)
    version.destroy_time = None
    return kms_v1.CryptoKeyVersion(version)


def _wrong_state(version: kms_v1.CryptoKeyVersion, why: str) -> GoogleError:
    state = State(version.state).name
    return GoogleError(
        "FAILED_PRECONDITION",
        f"{version.name} {why}, current state is: {state}.",
        [precondition(f"KEY_{state}", version.name)],
    )
