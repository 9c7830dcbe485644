"""The `google.iam.v1` methods on key rings and keys. Guide step 3."""

from __future__ import annotations

from google.iam.v1 import iam_policy_pb2, policy_pb2

from sandbox.iam_access import allows, authorize, check_service
from sandbox.iam_policies import read_policy, write_policy
from sandbox.identities import Identity
from sandbox.kms_errors import invalid
from sandbox.kms_key_rings import find_ring
from sandbox.kms_lifecycle import find_key
from sandbox.kms_names import canonical, kind_of, project_of
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
