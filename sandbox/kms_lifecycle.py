"""What happens to a key by itself as time passes: generation ends, rotation, destruction.

Nothing runs in the background: each operation first settles the key that it touches up to now.
Sources: https://docs.cloud.google.com/kms/docs/key-states,
https://docs.cloud.google.com/kms/docs/org-policy-constraints (why a rotation can fail)
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from google.cloud import kms_v1

from sandbox.kms_errors import not_found
from sandbox.kms_names import key_of, location_of
from sandbox.world import World

State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState


def find_key(world: World, name: str) -> kms_v1.CryptoKey:
    """The stored key, settled up to now.

    Raises:
        GoogleError: NOT_FOUND.
    """
    key = world.kms.crypto_keys.get(name)
    if key is None:
        raise not_found("CryptoKey", name)
    settle(world, key)
    return key


def find_version(world: World, name: str) -> kms_v1.CryptoKeyVersion:
    """The stored version, its key settled up to now.

    Raises:
        GoogleError: NOT_FOUND.
    """
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
    """Make the next version of `key` by its template, generated at once unless a switch waits."""
    versions = world.kms.versions[key.name]
    number = len(versions) + 1
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
    """Let everything happen to `key` that was due by now."""
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
    """Make the new primary versions that were due; none while an organization policy forbids it."""
    if not key.rotation_period or not _may_rotate(world, key):
        return
    while key.next_rotation_time <= world.clock.now():
        version = new_version(world, key, key.next_rotation_time)
        key.primary = kms_v1.CryptoKeyVersion(name=version.name)
        key.next_rotation_time += key.rotation_period


def _may_rotate(world: World, key: kms_v1.CryptoKey) -> bool:
    level = kms_v1.ProtectionLevel(key.version_template.protection_level).name
    constraints = world.kms.constraints
    return constraints.allows_location(location_of(key.name)) and (
        constraints.allows_protection_level(level)
    )
