"""Permanent deletion: versions, then their key, then its ring. A key's name is never free again.

Each call returns an operation that is already done. google-cloud-kms cannot delete key rings yet,
the discovery document has the call.
Source: https://docs.cloud.google.com/kms/docs/delete-kms-resources
"""

from __future__ import annotations

import secrets
from typing import Any, Final

import proto
from google.cloud import kms_v1
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from sandbox.errors import GoogleError, not_found
from sandbox.kms.keys import find_ring
from sandbox.kms.lists import paginate
from sandbox.kms.operations import permitted
from sandbox.kms.state import key_of, location_of
from sandbox.kms.versions import State, find_key, find_version
from sandbox.world import World

_DELETABLE: Final = {State.DESTROYED, State.IMPORT_FAILED, State.GENERATION_FAILED}


class DeleteKeyRingRequest(proto.Message):  # type: ignore[misc]  # proto has no annotations
    """The request as the discovery document defines it."""

    name = proto.Field(proto.STRING, number=1)


@permitted("cloudkms.cryptoKeyVersions.delete", "DELETE /v1/{name=CryptoKeyVersion}")
def delete_crypto_key_version(
    world: World, name: str, _: kms_v1.DeleteCryptoKeyVersionRequest
) -> operations_pb2.Operation:
    """Delete a version without key material; its number is never used again."""
    version = find_version(world, name)
    if version.state not in _DELETABLE:
        raise _blocked(name, f"its state is {State(version.state).name}")
    if "import_time" in version:
        raise _blocked(name, "its key material was imported")
    key = world.kms.crypto_keys[key_of(name)]
    if key.primary.name == name:
        del key.primary
    del world.kms.versions[key.name][int(name.rsplit("/", 1)[1])]
    return _done(world, name, kms_v1.DeleteCryptoKeyVersionMetadata())


@permitted("cloudkms.cryptoKeys.delete", "DELETE /v1/{name=CryptoKey}")
def delete_crypto_key(
    world: World, name: str, _: kms_v1.DeleteCryptoKeyRequest
) -> operations_pb2.Operation:
    """Delete a key without versions, and keep a record of its name."""
    find_key(world, name)
    if world.kms.versions[name]:
        raise _blocked(name, "it has versions")
    for stored in (world.kms.crypto_keys, world.kms.versions, world.kms.policies):
        stored.pop(name, None)
    place = "/".join(name.split("/")[:4])
    retired = kms_v1.RetiredResource(
        name=f"{place}/retiredResources/{secrets.token_hex(8)}",
        original_resource=name,
        resource_type="cloudkms.googleapis.com/CryptoKey",
        delete_time=world.clock.now(),
    )
    world.kms.retired[retired.name] = retired
    return _done(world, name, kms_v1.DeleteCryptoKeyMetadata(retired_resource=retired.name))


@permitted("cloudkms.keyRings.delete", "DELETE /v1/{name=KeyRing}")
def delete_key_ring(world: World, name: str, _: DeleteKeyRingRequest) -> operations_pb2.Operation:
    """Delete a ring without keys; its name is free again."""
    find_ring(world, name)
    if any(key.startswith(f"{name}/") for key in world.kms.crypto_keys):
        raise _blocked(name, "it has crypto keys")
    del world.kms.key_rings[name]
    world.kms.policies.pop(name, None)
    return _done(world, name, None)


@permitted("cloudkms.retiredResources.list", "GET /v1/{parent=Location}/retiredResources")
def list_retired_resources(
    world: World, location: str, request: kms_v1.ListRetiredResourcesRequest
) -> kms_v1.ListRetiredResourcesResponse:
    """A page of the records of deleted keys."""
    records = [one for name, one in world.kms.retired.items() if name.startswith(f"{location}/")]
    page = paginate(records, location, request)
    return kms_v1.ListRetiredResourcesResponse(retired_resources=page.items, **page.facts)


@permitted("cloudkms.retiredResources.get", "GET /v1/{name=RetiredResource}")
def get_retired_resource(
    world: World, name: str, _: kms_v1.GetRetiredResourceRequest
) -> kms_v1.RetiredResource:
    """One record."""
    if name not in world.kms.retired:
        raise not_found("RetiredResource", name)
    return world.kms.retired[name]


@permitted("cloudkms.operations.get", "GET /v1/{name=Operation}")
def get_operation(
    world: World, name: str, _: operations_pb2.GetOperationRequest
) -> operations_pb2.Operation:
    """The operation that a deletion returned."""
    if name not in world.kms.operations:
        raise not_found("Operation", name)
    return world.kms.operations[name]


def _done(world: World, name: str, metadata: Any) -> operations_pb2.Operation:  # noqa: ANN401
    location = "/".join([*name.split("/")[:2], "locations", location_of(name)])
    operation = operations_pb2.Operation(
        name=f"{location}/operations/{secrets.token_hex(8)}", done=True
    )
    operation.response.Pack(empty_pb2.Empty())
    if metadata is not None:
        message: Message = type(metadata).pb(metadata)
        operation.metadata.Pack(message)
    world.kms.operations[operation.name] = operation
    return operation


def _blocked(name: str, why: str) -> GoogleError:
    return GoogleError("FAILED_PRECONDITION", f"{name} can not be deleted: {why}.")
