"""May this caller do that? Policies of the resource and of everything above it, and conditions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from google.iam.v1 import policy_pb2

from sandbox.iam_roles import ROLES
from sandbox.identities import Identity
from sandbox.kms_errors import (
    billing_disabled,
    perimeter_violation,
    permission_denied,
    service_disabled,
)
from sandbox.kms_names import key_of, project_of
from sandbox.kms_state import StoredPolicy
from sandbox.world import World

_EXPIRY = re.compile(r"""\s*request\.time\s*<\s*timestamp\(\s*["'](?P<time>[^"']+)["']\s*\)\s*""")


def authorize(world: World, caller: Identity, permission: str, resource: str) -> None:
    """Let the call pass or say why not, in Google's order: API, billing, perimeter, IAM.

    Raises:
        GoogleError: PERMISSION_DENIED with the reason that applies.
    """
    check_service(world, caller, resource)
    if not allows(world, caller, permission, resource):
        raise permission_denied(permission, resource)


def check_service(world: World, caller: Identity, resource: str) -> None:
    """Refuse what no permission can help: API off, billing off, outside the perimeter.

    Raises:
        GoogleError: PERMISSION_DENIED.
    """
    number = project_of(world, resource).number
    if not world.switches.kms_api_enabled:
        raise service_disabled(number)
    if not world.switches.billing_enabled:
        raise billing_disabled(number)
    blocks = world.kms.constraints.perimeter_blocks
    if blocks == "everybody" or (blocks == "anthropic" and caller is world.identities.anthropic):
        raise perimeter_violation(number, "SandboxPerimeterUniqueId0001")


def allows(world: World, caller: Identity, permission: str, resource: str) -> bool:
    """Whether `caller` has `permission` on the canonical `resource`, by itself or inherited."""
    verdict = caller.verdict(permission)
    if verdict is not None:
        return verdict
    wait = timedelta(0)
    if caller is world.identities.anthropic:
        wait = timedelta(seconds=world.switches.iam_propagation_seconds)
    now = world.clock.now()
    return any(
        _policy_grants(stored, caller.member, permission, now=now, wait=wait)
        for stored in _policies_over(world, resource)
    )


def _policies_over(world: World, resource: str) -> Iterator[StoredPolicy]:
    project = project_of(world, resource)
    parts = key_of(resource).split("/")
    chain = ["/".join(parts[:end]) for end in (8, 6, 2) if end <= len(parts)]
    for name in dict.fromkeys([*chain, *project.ancestors]):
        if stored := world.kms.policies.get(name):
            yield stored


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
