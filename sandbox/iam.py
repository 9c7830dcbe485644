"""IAM: the permissions of roles, whether a caller has one, reading and writing policies.

Roles hold only the permissions that matter here. A caller's permission comes from the policies of
the resource and of everything above it, conditions included.
Sources: https://docs.cloud.google.com/iam/docs/roles-permissions/cloudkms,
https://docs.cloud.google.com/iam/docs/policies and the `google.iam.v1` definitions.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from typing import Final

from google.iam.v1 import policy_pb2

from sandbox.errors import (
    billing_disabled,
    concurrent_policy_change,
    invalid,
    perimeter_violation,
    permission_denied,
    service_disabled,
)
from sandbox.identities import Identity
from sandbox.kms.state import StoredPolicy, key_of, project_of
from sandbox.world import World

_LOCATIONS: Final = {"cloudkms.locations.get", "cloudkms.locations.list"}
_READ: Final = {
    "cloudkms.keyRings.get",
    "cloudkms.keyRings.list",
    "cloudkms.cryptoKeys.get",
    "cloudkms.cryptoKeys.list",
    "cloudkms.cryptoKeyVersions.get",
    "cloudkms.cryptoKeyVersions.list",
    "cloudkms.operations.get",
    "cloudkms.retiredResources.get",
    "cloudkms.retiredResources.list",
} | _LOCATIONS
_WRITE: Final = {
    "cloudkms.keyRings.create",
    "cloudkms.cryptoKeys.create",
    "cloudkms.cryptoKeys.update",
    "cloudkms.cryptoKeyVersions.create",
    "cloudkms.cryptoKeyVersions.update",
    "cloudkms.cryptoKeyVersions.destroy",
    "cloudkms.cryptoKeyVersions.restore",
    "cloudkms.keyRings.delete",
    "cloudkms.cryptoKeys.delete",
    "cloudkms.cryptoKeyVersions.delete",
}
_READ_POLICY: Final = {"cloudkms.keyRings.getIamPolicy", "cloudkms.cryptoKeys.getIamPolicy"}
_WRITE_POLICY: Final = {"cloudkms.keyRings.setIamPolicy", "cloudkms.cryptoKeys.setIamPolicy"}
_ENCRYPT: Final = {"cloudkms.cryptoKeyVersions.useToEncrypt"}
_DECRYPT: Final = {"cloudkms.cryptoKeyVersions.useToDecrypt"}

# The administrator's role has no cryptographic operations: separation of duties.
ROLES: Final[dict[str, frozenset[str]]] = {
    "roles/owner": frozenset(_READ | _WRITE | _READ_POLICY | _WRITE_POLICY | _ENCRYPT | _DECRYPT),
    "roles/editor": frozenset(_READ | _WRITE | _READ_POLICY),
    "roles/viewer": frozenset(_READ | _READ_POLICY),
    "roles/cloudkms.admin": frozenset(_READ | _WRITE | _READ_POLICY | _WRITE_POLICY),
    "roles/cloudkms.viewer": frozenset(_READ),
    "roles/cloudkms.cryptoKeyEncrypter": frozenset(_ENCRYPT | _LOCATIONS),
    "roles/cloudkms.cryptoKeyDecrypter": frozenset(_DECRYPT | _LOCATIONS),
    "roles/cloudkms.cryptoKeyEncrypterDecrypter": frozenset(_ENCRYPT | _DECRYPT | _LOCATIONS),
    "roles/cloudkms.cryptoOperator": frozenset(_ENCRYPT | _DECRYPT | _LOCATIONS),
    "roles/iam.securityReviewer": frozenset(_READ | _READ_POLICY),
    "roles/iam.securityAdmin": frozenset(_READ_POLICY | _WRITE_POLICY),
}

_EXPIRY = re.compile(r"""\s*request\.time\s*<\s*timestamp\(\s*["'](?P<time>[^"']+)["']\s*\)\s*""")


def authorize(world: World, caller: Identity, permission: str, resource: str) -> None:
    """Raise PERMISSION_DENIED for the first that fails: API, billing, perimeter, IAM."""
    check_service(world, caller, resource)
    if not allows(world, caller, permission, resource):
        raise permission_denied(permission, resource)


def check_service(world: World, caller: Identity, resource: str) -> None:
    """Raise PERMISSION_DENIED if the API or billing is off, or the perimeter blocks the caller."""
    number = project_of(world, resource).number
    if not world.switches.kms_api_enabled:
        raise service_disabled(number)
    if not world.switches.billing_enabled:
        raise billing_disabled(number)
    blocks = world.kms.constraints.perimeter_blocks
    mine = "anthropic" if caller is world.identities.anthropic else "all_but_anthropic"
    if blocks in {mine, "everybody"}:
        raise perimeter_violation(number, "SandboxPerimeterUniqueId0001")


def allows(world: World, caller: Identity, permission: str, resource: str) -> bool:
    """Whether `caller` has `permission` on the canonical `resource`, by itself or inherited."""
    verdict = caller.verdict(permission)
    if verdict is not None:
        return verdict
    wait = timedelta(0)
    if caller is world.identities.anthropic:
        wait = timedelta(seconds=world.switches.iam_propagation_seconds)
    now, parts = world.clock.now(), key_of(resource).split("/")
    # The key, its ring and its project, as far as the resource has them, then what is above.
    chain = ["/".join(parts[:end]) for end in (8, 6, 2) if end <= len(parts)]
    names = dict.fromkeys([*chain, *project_of(world, resource).ancestors])
    return any(
        _policy_grants(world.kms.policies[name], caller.member, permission, now=now, wait=wait)
        for name in names
        if name in world.kms.policies
    )


def _policy_grants(
    stored: StoredPolicy, member: str, permission: str, *, now: datetime, wait: timedelta
) -> bool:
    members = {member, "allUsers", "allAuthenticatedUsers"}
    return any(
        permission in ROLES.get(binding.role, frozenset())
        and condition_holds(binding, now)
        and any(
            stored.since[grant_id(binding, named)] + wait <= now
            for named in members.intersection(binding.members)
        )
        for binding in stored.policy.bindings
    )


def grant_id(binding: policy_pb2.Binding, member: str) -> str:
    """The key of one grant in `StoredPolicy.since`."""
    return f"{binding.role} {member} {binding.condition.expression}"


def condition_holds(binding: policy_pb2.Binding, now: datetime) -> bool:
    """Evaluate `true` and a bare `request.time <` expiry; any other expression counts as false."""
    if not binding.HasField("condition"):
        return True
    expression = binding.condition.expression.strip()
    if expression == "true":
        return True
    match = _EXPIRY.fullmatch(expression)
    return match is not None and now < datetime.fromisoformat(match["time"])


EMPTY_ETAG = b"\x00\x20\x01"
"""Google's etag of a resource that never had a policy: `ACAB` in base64."""

_ROLE = re.compile(r"(?:(?:projects|organizations)/[^/]+/)?roles/[A-Za-z0-9_.]+")
# A predefined role of another service has no permission on a key or ring; a custom role may.
_ROLE_ON_KEY = re.compile(r"(?:projects|organizations)/[^/]+/roles/.+|roles/cloudkms\..+")
MOST_MEMBERS: Final = 1500
"""Limit for one policy; a member of two bindings is counted twice."""
_MEMBER = re.compile(
    r"allUsers|allAuthenticatedUsers|(?:deleted:)?(?:user|serviceAccount|group|domain|principal"
    r"|principalSet|projectOwner|projectEditor|projectViewer|iamMember):\S+"
)


def read_policy(world: World, resource: str, requested_version: int) -> policy_pb2.Policy:
    """The policy as a reader of `requested_version` sees it.

    Below version 3 a conditional binding shows up under a made-up role name and without its
    condition, so that it is not mistaken for the unconditional one.
    """
    if requested_version not in {0, 1, 3}:
        raise invalid(f"Invalid requested policy version {requested_version}: use 0, 1 or 3.")
    shown = policy_pb2.Policy(etag=EMPTY_ETAG, version=1)
    if stored := world.kms.policies.get(resource):
        shown.CopyFrom(stored.policy)
    if requested_version < 3:
        for binding in shown.bindings:
            if binding.HasField("condition"):
                condition = binding.condition.SerializeToString(deterministic=True)
                binding.role += f"_withcond_{hashlib.sha256(condition).hexdigest()[:20]}"
                binding.ClearField("condition")
        shown.version = 1
    return shown


def write_policy(
    world: World, resource: str, asked: policy_pb2.Policy, project_number: str
) -> policy_pb2.Policy:
    """Replace the policy of `resource`, and return what was stored.

    Without an etag it overwrites what others wrote meanwhile, as at Google. Raises ABORTED for a
    stale etag, INVALID_ARGUMENT for a malformed binding or a condition below version 3,
    FAILED_PRECONDITION for a violated organization policy.
    """
    stored = world.kms.policies.get(resource)
    current = stored.policy if stored else policy_pb2.Policy(etag=EMPTY_ETAG)
    if asked.etag and asked.etag != current.etag:
        raise concurrent_policy_change(asked.etag, current.etag)
    _check_version(asked, current)
    _check_bindings(asked, on_key="/keyRings/" in resource)
    members = {member for binding in asked.bindings for member in binding.members}
    world.kms.constraints.check_members(members, project_number)
    world.kms.policy_writes += 1
    policy = _tidy(asked)
    written = f"{resource} {world.kms.policy_writes}"
    policy.etag = hashlib.sha256(written.encode()).digest()[:8]
    grants = [grant_id(binding, one) for binding in policy.bindings for one in binding.members]
    before, now = stored.since if stored else {}, world.clock.now()
    since = {grant: before.get(grant, now) for grant in grants}
    world.kms.policies[resource] = StoredPolicy(policy, since)
    return read_policy(world, resource, 3)


def _check_version(asked: policy_pb2.Policy, current: policy_pb2.Policy) -> None:
    if asked.version not in {0, 1, 3}:
        raise invalid(f"Invalid policy version {asked.version}: use 0, 1 or 3.")
    if asked.version == 3:
        return
    if any(binding.HasField("condition") for binding in asked.bindings):
        raise invalid("A policy with a conditional binding must have version 3.")
    if asked.etag and any(binding.HasField("condition") for binding in current.bindings):
        raise invalid(
            "The current policy has conditional bindings: read it with requested policy version "
            "3 and write it back with version 3."
        )


def _check_bindings(asked: policy_pb2.Policy, *, on_key: bool) -> None:
    count = sum(len(binding.members) for binding in asked.bindings)
    if count > MOST_MEMBERS:
        raise invalid(
            f"The number of members in the policy ({count:,}) is larger than the maximum allowed "
            f"size {MOST_MEMBERS:,}."
        )
    for binding in asked.bindings:
        role = binding.role
        elsewhere = on_key and not _ROLE_ON_KEY.fullmatch(role) and role not in ROLES
        if not _ROLE.fullmatch(role) or "_withcond_" in role or elsewhere:
            raise invalid(f"Role {binding.role} is not supported for this resource.")
        if binding.HasField("condition") and not binding.condition.expression:
            raise invalid(f"The condition on {binding.role} has no expression.")
        for member in binding.members:
            if not _MEMBER.fullmatch(member):
                raise invalid(f"Invalid member {member}: expected a prefix such as 'user:'.")


def _tidy(asked: policy_pb2.Policy) -> policy_pb2.Policy:
    """One binding for each role and condition, each member once, no empty bindings."""
    merged: dict[tuple[str, bytes], policy_pb2.Binding] = {}
    for binding in asked.bindings:
        key = (binding.role, binding.condition.SerializeToString(deterministic=True))
        kept = merged.setdefault(key, policy_pb2.Binding(role=binding.role))
        if binding.HasField("condition"):
            kept.condition.CopyFrom(binding.condition)
        kept.members.extend(member for member in binding.members if member not in kept.members)
    conditional = any(binding.HasField("condition") for binding in merged.values())
    return policy_pb2.Policy(
        version=3 if conditional else 1,
        bindings=[binding for binding in merged.values() if binding.members],
        audit_configs=asked.audit_configs,
    )
