"""The official client does all its work with the sandbox, on every transport that it has."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import kms_v1
from google.cloud.location import locations_pb2

from cmek.names import US_SINGLE_REGIONS
from tests.support.kms import (
    LOCATION,
    NO_RETRY,
    PROJECT,
    Client,
    Kms,
    Level,
    Purpose,
    State,
    async_client,
)


def test_the_guides_steps_work_on_both_transports(kms: Kms, client: Client) -> None:
    first = datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)
    ring = client.create_key_ring(parent=LOCATION, key_ring_id="anthropic-cmek")
    key = client.create_crypto_key(
        request={
            "parent": ring.name,
            "crypto_key_id": "claude",
            "crypto_key": {
                "purpose": Purpose.ENCRYPT_DECRYPT,
                "version_template": {"protection_level": Level.HSM},
                "labels": {"team": "security"},
                "rotation_period": timedelta(days=90),
                "next_rotation_time": first,
                "destroy_scheduled_duration": timedelta(days=60),
            },
        }
    )
    assert client.get_crypto_key(name=key.name) == key
    assert key.name == f"{LOCATION}/keyRings/anthropic-cmek/cryptoKeys/claude"
    assert (key.rotation_period, key.next_rotation_time) == (timedelta(days=90), first)
    assert key.destroy_scheduled_duration == timedelta(days=60)
    assert dict(key.labels) == {"team": "security"}
    assert key.primary.state == State.ENABLED
    assert key.primary.protection_level == Level.HSM
    assert key.primary.algorithm == 1


def test_versions_live_and_die_on_both_transports(kms: Kms, client: Client) -> None:
    key = kms.key()
    second = client.create_crypto_key_version(parent=key.name)
    assert client.get_crypto_key(name=key.name).primary.name == key.primary.name
    changed = client.update_crypto_key_primary_version(name=key.name, crypto_key_version_id="2")
    assert changed.primary.name == second.name
    states = []
    for state in (State.DISABLED, State.ENABLED):
        version = kms_v1.CryptoKeyVersion(name=second.name, state=state)
        mask = {"paths": ["state"]}
        client.update_crypto_key_version(crypto_key_version=version, update_mask=mask)
        states.append(client.get_crypto_key(name=key.name).primary.state)
    states.append(client.destroy_crypto_key_version(name=second.name).state)
    states.append(client.restore_crypto_key_version(name=second.name).state)
    assert states == [State.DISABLED, State.ENABLED, State.DESTROY_SCHEDULED, State.DISABLED]
    assert [v.name for v in client.list_crypto_key_versions(parent=key.name)] == [
        key.primary.name,
        second.name,
    ]


def test_locations_say_what_they_offer(kms: Kms, client: Client) -> None:
    kms.world.kms.locations_without_hsm = {"us-west4"}
    listed = client.list_locations(locations_pb2.ListLocationsRequest(name=PROJECT), timeout=10)
    ids = {location.location_id for location in listed.locations}
    assert ids >= {*US_SINGLE_REGIONS, "us", "global", "nam4", "europe-west1"}
    assert [_has_hsm(client, one) for one in ("us-east5", "us-west4")] == [True, False]


def _has_hsm(client: Client, location_id: str) -> bool:
    request = locations_pb2.GetLocationRequest(name=f"{PROJECT}/locations/{location_id}")
    location, metadata = client.get_location(request, timeout=10), kms_v1.LocationMetadata()
    assert location.metadata.Unpack(kms_v1.LocationMetadata.pb(metadata))
    return metadata.hsm_available


def test_the_async_client_works_too(kms: Kms) -> None:
    key = kms.key()

    async def read() -> set[str]:
        client = async_client(kms.sandbox)
        keys = await asyncio.gather(
            *(client.get_crypto_key(name=key.name, **NO_RETRY) for _ in range(32))
        )
        await client.transport.close()  # type: ignore[no-untyped-call]
        return {one.name for one in keys}

    assert asyncio.run(read()) == {key.name}


def test_a_mistyped_location_gets_the_misrouting_text(kms: Kms, client: Client) -> None:
    with pytest.raises(exceptions.NotFound, match="concerns location 'us-east55' but was sent"):
        client.create_key_ring(parent=f"{LOCATION}5", key_ring_id="r", **NO_RETRY)


def test_the_projects_number_names_it_too(kms: Kms, client: Client) -> None:
    key = kms.key()
    by_number = key.name.replace("acme-kms-prod", "123456789012")
    assert client.get_crypto_key(name=by_number) == key
    with pytest.raises(exceptions.Forbidden, match="or it may not exist"):
        client.get_crypto_key(name=key.name.replace("acme-kms-prod", "no-such-project"))


def test_missing_and_existing_names_have_the_recorded_texts(kms: Kms, client: Client) -> None:
    key = kms.key()
    ring = key.name.partition("/cryptoKeys")[0]
    with pytest.raises(exceptions.NotFound, match=f"CryptoKey {key.name}x not found."):
        client.get_crypto_key(name=f"{key.name}x", **NO_RETRY)
    with pytest.raises(exceptions.NotFound, match=f"KeyRing {ring}x not found."):
        client.get_key_ring(name=f"{ring}x", **NO_RETRY)
    with pytest.raises(exceptions.Conflict, match=f"KeyRing {ring} already exists."):
        client.create_key_ring(parent=LOCATION, key_ring_id="ring", **NO_RETRY)


def test_every_call_is_logged_with_its_name_and_kind(kms: Kms, client: Client) -> None:
    key = kms.key()
    kms.world.log.clear()
    client.get_crypto_key(name=key.name)
    client.encrypt(name=key.name, plaintext=b"x")
    client.create_crypto_key_version(parent=key.name)
    with pytest.raises(exceptions.NotFound):
        client.destroy_crypto_key_version(name=f"{key.name}/cryptoKeyVersions/9", **NO_RETRY)
    entries = kms.world.log.entries
    assert [(e.call, e.write, e.effect) for e in entries] == [
        ("GetCryptoKey", False, True),
        ("Encrypt", False, True),
        ("CreateCryptoKeyVersion", True, True),
        ("DestroyCryptoKeyVersion", True, False),
    ]
    assert {(e.service, e.caller) for e in entries} == {("kms", "administrator")}
    assert [e.resource for e in entries[:3]] == [key.name] * 3
    assert [e.status for e in entries[:3]] == ["OK"] * 3


def test_a_call_that_is_not_served_is_logged_too(kms: Kms, client: Client) -> None:
    """The log has every call that was tried."""
    job = kms_v1.ImportJob(import_method="RSA_OAEP_3072_SHA256_AES_256", protection_level="HSM")
    with pytest.raises(exceptions.GoogleAPICallError):
        client.create_import_job(parent=kms.ring(), import_job_id="j", import_job=job, **NO_RETRY)
    last = kms.world.log.entries[-1]
    assert last.write
    assert last.call == ("CreateImportJob" if last.transport == "grpc" else "Unserved")
    kms.world.log.clear()


def test_an_insecure_channel_may_send_its_own_token(kms: Kms) -> None:
    kms.world.switches.anonymous_caller = "unauthenticated"
    token = kms.world.identities.issue_token(kms.world.identities.administrator)
    call = grpc.insecure_channel(kms.sandbox.grpc).unary_unary(
        "/google.cloud.kms.v1.KeyManagementService/ListKeyRings",
        request_serializer=kms_v1.ListKeyRingsRequest.serialize,
        response_deserializer=kms_v1.ListKeyRingsResponse.deserialize,
    )
    request = kms_v1.ListKeyRingsRequest(parent=LOCATION)
    assert call(request, metadata=(("authorization", f"Bearer {token}"),)).total_size == 0
    with pytest.raises(grpc.RpcError) as refused:
        call(request)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
