"""Versions over time: pending, rotated, disabled, scheduled for destruction, destroyed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from google.api_core import exceptions
from google.cloud import kms_v1

from tests.support.kms import NO_RETRY, Client, Kms, Level, State


def test_destruction_waits_and_then_happens(kms: Kms, client: Client) -> None:
    key = kms.key(destroy_scheduled_duration=timedelta(days=1))
    scheduled = client.destroy_crypto_key_version(name=key.primary.name)
    left = scheduled.destroy_time - kms.world.clock.now()
    assert timedelta(hours=23, minutes=59) < left <= timedelta(days=1)
    kms.world.clock.advance(timedelta(hours=23))
    assert client.get_crypto_key(name=key.name).primary.state == State.DESTROY_SCHEDULED
    kms.world.clock.advance(timedelta(hours=2))
    gone = client.get_crypto_key_version(name=key.primary.name)
    assert gone.state == State.DESTROYED
    assert gone.destroy_event_time == scheduled.destroy_time
    with pytest.raises(exceptions.BadRequest, match="not scheduled for destruction"):
        client.restore_crypto_key_version(name=gone.name, **NO_RETRY)


def test_only_live_versions_can_be_destroyed_and_only_once(kms: Kms, client: Client) -> None:
    key = kms.key()
    kms.set_state(key.primary.name, State.DISABLED)
    client.destroy_crypto_key_version(name=key.primary.name)
    with pytest.raises(exceptions.BadRequest, match="DESTROY_SCHEDULED"):
        client.destroy_crypto_key_version(name=key.primary.name, **NO_RETRY)


def test_a_version_takes_only_the_two_states_that_one_can_ask_for(kms: Kms, client: Client) -> None:
    key = kms.key()
    with pytest.raises(exceptions.BadRequest, match="ENABLED or DISABLED"):
        client.update_crypto_key_version(
            crypto_key_version=kms_v1.CryptoKeyVersion(name=key.primary.name, state=3),
            update_mask={"paths": ["state"]},
            **NO_RETRY,
        )
    client.destroy_crypto_key_version(name=key.primary.name)
    with pytest.raises(exceptions.BadRequest, match="can not be enabled"):
        kms.set_state(key.primary.name, State.ENABLED)


def test_rotation_makes_a_new_primary_when_it_is_due(kms: Kms, client: Client) -> None:
    now = kms.world.clock.now()
    day = timedelta(days=1)
    key = kms.key(rotation_period=90 * day, next_rotation_time=now + 90 * day)
    sealed = client.encrypt(name=key.name, plaintext=b"old").ciphertext
    kms.world.clock.advance(181 * day)
    rotated = client.get_crypto_key(name=key.name)
    assert rotated.primary.name == f"{key.name}/cryptoKeyVersions/3"
    assert rotated.primary.create_time == rotated.next_rotation_time - 90 * day
    assert rotated.next_rotation_time > kms.world.clock.now()
    opened = client.decrypt(name=key.name, ciphertext=sealed)
    assert (opened.plaintext, opened.used_primary) == (b"old", False)


def test_rotation_fails_under_a_later_organization_policy(kms: Kms, client: Client) -> None:
    """The key still works; next_rotation_time stays in the past, which a health check can see."""
    now = kms.world.clock.now()
    month = timedelta(days=30)
    key = kms.key(rotation_period=month, next_rotation_time=now + month)
    kms.world.kms.constraints.allowed_protection_levels = ["HSM"]
    kms.world.clock.advance(2 * month)
    stuck = client.get_crypto_key(name=key.name)
    assert stuck.primary == key.primary
    assert stuck.next_rotation_time < kms.world.clock.now()
    assert client.encrypt(name=key.name, plaintext=b"x").ciphertext


def test_generation_can_take_its_time(kms: Kms, client: Client) -> None:
    """With a switch a version is PENDING_GENERATION, not usable, and enabled later."""
    kms.world.switches.initial_version_pending_seconds = 30
    key = kms.key(version_template={"protection_level": Level.HSM})
    assert key.primary.state == State.PENDING_GENERATION
    with pytest.raises(exceptions.BadRequest) as refused:
        client.encrypt(name=key.name, plaintext=b"x", **NO_RETRY)
    assert "PENDING_GENERATION" in str(refused.value)
    kms.world.clock.advance(timedelta(seconds=31))
    primary = client.get_crypto_key(name=key.name).primary
    assert primary.state == State.ENABLED
    assert primary.generate_time - primary.create_time == timedelta(seconds=30)


def test_a_key_may_have_no_primary(kms: Kms, client: Client) -> None:
    """With skip_initial_version_creation there is no `primary` until a version is chosen."""
    key = kms.key(skip_initial_version_creation=True)
    assert "primary" not in client.get_crypto_key(name=key.name)
    with pytest.raises(exceptions.BadRequest, match="no primary"):
        client.encrypt(name=key.name, plaintext=b"x", **NO_RETRY)
    client.create_crypto_key_version(parent=key.name)
    client.update_crypto_key_primary_version(name=key.name, crypto_key_version_id="1")
    assert client.encrypt(name=key.name, plaintext=b"x").name.endswith("/1")


def test_only_an_enabled_version_of_the_key_becomes_primary(kms: Kms, client: Client) -> None:
    key = kms.key()
    second = client.create_crypto_key_version(parent=key.name)
    kms.set_state(second.name, State.DISABLED)
    for number in ("2", "7", "first"):
        with pytest.raises(exceptions.BadRequest):
            client.update_crypto_key_primary_version(
                name=key.name, crypto_key_version_id=number, **NO_RETRY
            )
