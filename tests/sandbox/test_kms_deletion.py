"""Permanent deletion, by the official client and by the discovery document."""

from __future__ import annotations

import httpx
import pytest
from google.api_core.exceptions import AlreadyExists, BadRequest, NotFound
from google.api_core.operation import Operation

from tests.support.kms import LOCATION, NO_RETRY, Client, Kms, State


def _destroyed(kms: Kms) -> str:
    """Make a key whose only version is destroyed; returns its name."""
    key = kms.key()
    kms.grpc.destroy_crypto_key_version(name=key.primary.name, **NO_RETRY)
    kms.world.clock.advance(key.destroy_scheduled_duration)
    return key.name


def test_a_key_is_deleted_after_its_versions_and_its_name_stays_taken(
    kms: Kms, client: Client
) -> None:
    name = _destroyed(kms)
    ring = name.partition("/cryptoKeys/")[0]
    with pytest.raises(BadRequest, match="it has versions"):
        client.delete_crypto_key(name=name, **NO_RETRY)
    _finished(client.delete_crypto_key_version(name=f"{name}/cryptoKeyVersions/1", **NO_RETRY))
    deletion = client.delete_crypto_key(name=name, **NO_RETRY)
    _finished(deletion)
    with pytest.raises(NotFound):
        client.get_crypto_key(name=name, **NO_RETRY)
    (retired,) = client.list_retired_resources(parent=LOCATION, **NO_RETRY)
    assert retired.original_resource == name
    assert retired.name == deletion.metadata.retired_resource
    assert client.get_retired_resource(name=retired.name, **NO_RETRY) == retired
    with pytest.raises(AlreadyExists):
        kms.key(ring=ring)


def test_a_ring_is_deleted_after_its_keys_and_its_name_is_free_again(kms: Kms) -> None:
    """The call is that of the discovery document, since google-cloud-kms has none."""
    name = _destroyed(kms)
    ring = name.partition("/cryptoKeys/")[0]
    assert _delete(kms, ring).status_code == 400
    for one in (f"{name}/cryptoKeyVersions/1", name, ring):
        assert _delete(kms, one).json()["done"] is True
    assert kms.ring() == ring


def test_a_version_with_key_material_is_not_deleted_and_a_number_is_given_once(
    kms: Kms, client: Client
) -> None:
    key = kms.key()
    with pytest.raises(BadRequest, match="its state is ENABLED"):
        client.delete_crypto_key_version(name=key.primary.name, **NO_RETRY)
    client.destroy_crypto_key_version(name=key.primary.name, **NO_RETRY)
    kms.world.clock.advance(key.destroy_scheduled_duration)
    _finished(client.delete_crypto_key_version(name=key.primary.name, **NO_RETRY))
    assert "primary" not in client.get_crypto_key(name=key.name, **NO_RETRY)
    request = {"parent": key.name, "crypto_key_version": {"state": State.ENABLED}}
    made = client.create_crypto_key_version(request=request, **NO_RETRY)
    assert made.name.endswith("/cryptoKeyVersions/2")


def test_imported_key_material_can_not_be_deleted(kms: Kms, client: Client) -> None:
    name = f"{_destroyed(kms)}/cryptoKeyVersions/1"
    version = kms.world.kms.versions[name.partition("/cryptoKeyVersions/")[0]][1]
    version.import_time = kms.world.clock.now()
    with pytest.raises(BadRequest, match="was imported"):
        client.delete_crypto_key_version(name=name, **NO_RETRY)


def _finished(operation: Operation) -> None:
    operation.result(5)  # type: ignore[no-untyped-call]


def _delete(kms: Kms, name: str) -> httpx.Response:
    return httpx.delete(f"{kms.sandbox.http}/v1/{name}", trust_env=False)
