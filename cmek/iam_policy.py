"""Pure reading and extending of an IAM policy; what others put there stays as it is.

Source: https://docs.cloud.google.com/iam/docs/allow-policies and guide step 3
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable

from google.iam.v1 import policy_pb2

from cmek.models import FrozenModel

POLICY_VERSION = 3
"""The only version that carries conditions; a lower one would drop them."""


class PolicyBinding(FrozenModel):
    """Who holds a role, and under which condition (an expression), if any."""

    role: str
    members: tuple[str, ...]
    condition: str | None = None


class PolicyView(FrozenModel):
    """A policy as a frozen, JSON-serialisable value."""

    bindings: tuple[PolicyBinding, ...]
    etag: str
    """Base64, as REST shows it."""

    @classmethod
    def of(cls, policy: policy_pb2.Policy) -> PolicyView:
        """From the client library's message."""
        return cls(
            bindings=tuple(
                PolicyBinding(
                    role=binding.role,
                    members=tuple(binding.members),
                    condition=binding.condition.expression if _conditional(binding) else None,
                )
                for binding in policy.bindings
            ),
            etag=b64encode(policy.etag).decode(),
        )


def unconditional_roles(policy: policy_pb2.Policy, member: str) -> frozenset[str]:
    """Roles that `member` holds always."""
    return frozenset(
        binding.role
        for binding in policy.bindings
        if member in binding.members and not _conditional(binding)
    )


def with_grants(
    policy: policy_pb2.Policy, member: str, roles: Iterable[str]
) -> policy_pb2.Policy | None:
    """The policy plus what `member` lacks of `roles` without condition; None: nothing is lacking.

    Bindings and conditions of others, audit configs and the etag are kept.
    """
    missing = sorted(set(roles) - unconditional_roles(policy, member))
    if not missing:
        return None
    extended = policy_pb2.Policy()
    extended.CopyFrom(policy)
    extended.version = POLICY_VERSION
    for role in missing:
        same = (b for b in extended.bindings if b.role == role and not _conditional(b))
        binding = next(same, None) or extended.bindings.add(role=role)
        binding.members.append(member)
    return extended


def members_with(policy: policy_pb2.Policy, roles: Iterable[str]) -> tuple[str, ...]:
    """Everybody who holds one of `roles`, with or without a condition, sorted."""
    wanted = set(roles)
    return tuple(sorted({m for b in policy.bindings if b.role in wanted for m in b.members}))


def _conditional(binding: policy_pb2.Binding) -> bool:
    return bool(binding.HasField("condition"))
