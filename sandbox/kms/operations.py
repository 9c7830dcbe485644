"""The `google.iam.v1` methods on key rings and keys. Guide step 3.

The table of all Cloud KMS calls that are served; both transports read it.

A call's name, service and types follow from the request type that its handler takes. HTTP paths
are written as in the `google.api.http` annotations, with short names for the resources.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, get_type_hints

from google.iam.v1 import iam_policy_pb2, policy_pb2

from sandbox.errors import invalid
from sandbox.iam import allows, authorize, check_service, read_policy, write_policy
from sandbox.identities import Identity
from sandbox.kms import crypto as kms_crypto
from sandbox.kms import keys as kms_key_rings
from sandbox.kms import keys as kms_keys
from sandbox.kms import versions as kms_versions
from sandbox.kms.keys import find_ring
from sandbox.kms.state import canonical, kind_of, project_of
from sandbox.kms.versions import find_key
from sandbox.world import World

_COLLECTIONS = {"KeyRing": "keyRings", "CryptoKey": "cryptoKeys"}


def get_iam_policy(
    world: World, caller: Identity, request: iam_policy_pb2.GetIamPolicyRequest
) -> policy_pb2.Policy:
    """The policy set on the resource itself, without what it inherits."""
    name = _authorized(world, caller, request.resource, "getIamPolicy")
    return read_policy(world, name, request.options.requested_policy_version)


def set_iam_policy(
    world: World, caller: Identity, request: iam_policy_pb2.SetIamPolicyRequest
) -> policy_pb2.Policy:
    """Replace the policy; answers with the stored one."""
    name = _authorized(world, caller, request.resource, "setIamPolicy")
    return write_policy(world, name, request.policy, project_of(world, name).number)


def test_iam_permissions(
    world: World, caller: Identity, request: iam_policy_pb2.TestIamPermissionsRequest
) -> iam_policy_pb2.TestIamPermissionsResponse:
    """Which of the permissions the caller has; needs none itself."""
    kind = kind_of(request.resource) or ""
    if kind not in _COLLECTIONS:
        raise invalid(f"'{request.resource}' has no IAM policy in Cloud KMS.")
    name = canonical(world, request.resource, kind, "cloudkms.cryptoKeys.get")
    check_service(world, caller, name)
    _must_exist(world, kind, name)
    for permission in request.permissions:
        if "*" in permission or not permission.startswith("cloudkms."):
            raise invalid(f"Permission {permission} is not valid for this resource.")
    held = [one for one in request.permissions if allows(world, caller, one, name)]
    return iam_policy_pb2.TestIamPermissionsResponse(permissions=held)


def _authorized(world: World, caller: Identity, resource: str, verb: str) -> str:
    kind = kind_of(resource) or ""
    if kind not in _COLLECTIONS:
        raise invalid(f"'{resource}' has no IAM policy in Cloud KMS.")
    permission = f"cloudkms.{_COLLECTIONS[kind]}.{verb}"
    name = canonical(world, resource, kind, permission)
    authorize(world, caller, permission, name)
    _must_exist(world, kind, name)
    return name


def _must_exist(world: World, kind: str, name: str) -> None:
    if kind == "KeyRing":
        find_ring(world, name)
    else:
        find_key(world, name)


_SERVICES: Final = {
    "google.cloud.kms_v1.types.service": "google.cloud.kms.v1.KeyManagementService",
    "google.iam.v1.iam_policy_pb2": "google.iam.v1.IAMPolicy",
    "google.cloud.location.locations_pb2": "google.cloud.location.Locations",
}
_ID: Final = "[^/:]+"
_PROJECT: Final = "projects/[^/]+"
_LOCATION: Final = f"{_PROJECT}/locations/{_ID}"
_RING: Final = f"{_LOCATION}/keyRings/{_ID}"
_KEY: Final = f"{_RING}/cryptoKeys/{_ID}"
_VERSION: Final = f"{_KEY}/cryptoKeyVersions/{_ID}"
_SHAPES: Final = {
    "PROJECT": _PROJECT,
    "LOCATION": _LOCATION,
    "RING": _RING,
    "KEY": _KEY,
    "VERSION": _VERSION,
    "KEY_OR_VERSION": f"{_KEY}(?:/cryptoKeyVersions/{_ID})?",
    "RING_OR_KEY": f"{_RING}(?:/cryptoKeys/{_ID})?",
}
_FIELD: Final = re.compile(r"\{([a-z_.]+)=([A-Z_]+)\}")


@dataclass(frozen=True)
class Method:
    """One call: its handler, its HTTP verb and path, the request field in the body (`*`: all)."""

    run: Callable[..., Any]
    http: str
    body: str = ""
    write: bool = False

    @cached_property
    def request(self) -> type[Any]:
        """The request type: proto-plus for Cloud KMS itself, plain protobuf for its mixins."""
        kind: type[Any] = get_type_hints(self.run)["request"]
        return kind

    @property
    def rpc(self) -> str:
        """The call's name, on every transport and in the log."""
        return self.request.__name__.removesuffix("Request")

    @property
    def service(self) -> str:
        """The gRPC service's full name."""
        return _SERVICES[self.request.__module__]

    @property
    def verb(self) -> str:
        """The HTTP method."""
        return self.http.partition(" ")[0]

    @cached_property
    def field(self) -> str:
        """The request field that the path gives, dotted: `crypto_key.name`."""
        return _FIELD.findall(self.http)[0][0]  # type: ignore[no-any-return]  # findall is untyped

    @cached_property
    def path(self) -> re.Pattern[str]:
        """Matches the URL's path and captures the field's value."""
        path = self.http.partition(" ")[2]
        return re.compile(_FIELD.sub(lambda match: f"({_SHAPES[match[2]]})", path))


METHODS: Final = (
    Method(kms_key_rings.list_locations, "GET /v1/{name=PROJECT}/locations"),
    Method(kms_key_rings.get_location, "GET /v1/{name=LOCATION}"),
    Method(kms_key_rings.list_key_rings, "GET /v1/{parent=LOCATION}/keyRings"),
    Method(kms_key_rings.get_key_ring, "GET /v1/{name=RING}"),
    Method(
        kms_key_rings.create_key_ring, "POST /v1/{parent=LOCATION}/keyRings", "key_ring", write=True
    ),
    Method(kms_keys.list_crypto_keys, "GET /v1/{parent=RING}/cryptoKeys"),
    Method(kms_keys.get_crypto_key, "GET /v1/{name=KEY}"),
    Method(
        kms_keys.create_crypto_key, "POST /v1/{parent=RING}/cryptoKeys", "crypto_key", write=True
    ),
    Method(kms_keys.update_crypto_key, "PATCH /v1/{crypto_key.name=KEY}", "crypto_key", write=True),
    Method(
        kms_keys.update_crypto_key_primary_version,
        "POST /v1/{name=KEY}:updatePrimaryVersion",
        "*",
        write=True,
    ),
    Method(kms_crypto.encrypt, "POST /v1/{name=KEY_OR_VERSION}:encrypt", "*"),
    Method(kms_crypto.decrypt, "POST /v1/{name=KEY}:decrypt", "*"),
    Method(kms_versions.list_crypto_key_versions, "GET /v1/{parent=KEY}/cryptoKeyVersions"),
    Method(kms_versions.get_crypto_key_version, "GET /v1/{name=VERSION}"),
    Method(
        kms_versions.create_crypto_key_version,
        "POST /v1/{parent=KEY}/cryptoKeyVersions",
        "crypto_key_version",
        write=True,
    ),
    Method(
        kms_versions.update_crypto_key_version,
        "PATCH /v1/{crypto_key_version.name=VERSION}",
        "crypto_key_version",
        write=True,
    ),
    Method(
        kms_versions.destroy_crypto_key_version, "POST /v1/{name=VERSION}:destroy", "*", write=True
    ),
    Method(
        kms_versions.restore_crypto_key_version, "POST /v1/{name=VERSION}:restore", "*", write=True
    ),
    Method(get_iam_policy, "GET /v1/{resource=RING_OR_KEY}:getIamPolicy"),
    Method(
        set_iam_policy,
        "POST /v1/{resource=RING_OR_KEY}:setIamPolicy",
        "*",
        write=True,
    ),
    Method(test_iam_permissions, "POST /v1/{resource=RING_OR_KEY}:testIamPermissions", "*"),
)


def resource_of(message_json: dict[str, Any], field: str) -> str:
    """The resource that a request is about, from its JSON and the path's field."""
    value: Any = message_json
    for part in field.split("."):
        head, *rest = part.split("_")
        value = value.get(head + "".join(word.title() for word in rest), {})
    return value if isinstance(value, str) else ""
