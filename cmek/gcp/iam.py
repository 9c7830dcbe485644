"""Read an IAM policy, and extend it without changing other bindings. Pure.

Members are classified: Anthropic's published account, the public, look-alikes. Guide step 3 warns
against identifiers that were received in any other way.

Source: https://docs.cloud.google.com/iam/docs/allow-policies and guide step 3
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final, Literal

from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import MEMBER, SERVICE_ACCOUNT
from cmek.errors import listed
from cmek.models import FrozenModel
from cmek.names import is_custom_role

POLICY_VERSION = 3
"""The only version with conditions; writing a lower version would drop them."""
BASIC_ROLES: Final = frozenset(
    f"roles/{name}" for name in ("owner", "editor", "viewer", "admin", "writer", "reader")
)
DECRYPTING_ELSEWHERE: Final = frozenset(
    {
        "roles/cloudkmskacls.serviceAgent",
        "roles/dlp.serviceAgent",
        "roles/iam.dataScientist",
        "roles/iam.devOps",
    }
)
"""Roles of other services that allow to decrypt with every key below.

Source: https://docs.cloud.google.com/iam/docs/roles-permissions/cloudkms, `useToDecrypt`
"""
PUBLIC: Final = frozenset({"allUsers", "allAuthenticatedUsers"})
_ACCOUNT, _, _DOMAIN = SERVICE_ACCOUNT.partition("@")
_SIMILAR: Final = 0.9

MemberKind = Literal["anthropic", "public", "deleted", "look_alike", "other"]


class PolicyBinding(FrozenModel):
    """Who holds a role, and the expression of its condition, if it has one."""

    role: str
    members: tuple[str, ...]
    condition: str | None = None


class PolicyView(FrozenModel):
    """A policy as an immutable value that JSON can hold."""

    bindings: tuple[PolicyBinding, ...]
    etag: str
    """In base64, as in the REST API."""

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
    """Roles that `member` holds without a condition."""
    return frozenset(
        binding.role
        for binding in policy.bindings
        if member in binding.members and not _conditional(binding)
    )


def with_grants(
    policy: policy_pb2.Policy, member: str, roles: Iterable[str]
) -> policy_pb2.Policy | None:
    """The policy with those `roles` added that `member` does not hold without a condition.

    None when nothing is missing. Bindings and conditions of others, audit configs and the etag are
    kept.
    """
    missing = sorted(set(roles) - unconditional_roles(policy, member))
    if not missing:
        return None
    # a copy of the whole message, so that the etag and fields that we do not know stay
    extended = policy_pb2.Policy()
    extended.CopyFrom(policy)
    extended.version = POLICY_VERSION
    for role in missing:
        # never into a binding with a condition: that would apply to the member too
        same = (b for b in extended.bindings if b.role == role and not _conditional(b))
        binding = next(same, None) or extended.bindings.add(role=role)
        binding.members.append(member)
    return extended


@dataclass(frozen=True, slots=True)
class Grant:
    """One member's role in one resource's policy."""

    resource: str
    role: str
    member: str
    condition: str | None
    """The expression of the binding's condition; None without one."""


def grants_in(resource: str, policy: PolicyView) -> Iterator[Grant]:
    """Every (role, member, condition) of a policy."""
    for binding in policy.bindings:
        for member in binding.members:
            yield Grant(resource, binding.role, member, binding.condition)


def is_project(resource: str) -> bool:
    """Whether this is the name of a project itself, not of something in it."""
    return resource.startswith("projects/") and resource.count("/") == 1


def reaches_kms(role: str) -> bool:
    """Whether a binding of this role above the ring allows something in Cloud KMS, or may.

    The permissions of a custom role are not read, so it may.

    Source: https://docs.cloud.google.com/iam/docs/roles-overview (basic roles)
    """
    named = role.startswith("roles/cloudkms.") or role in BASIC_ROLES | DECRYPTING_ELSEWHERE
    return named or is_custom_role(role)


def kind_of(member: str) -> MemberKind:
    """The kind of a member; look-alikes are found by similarity, all other kinds exactly."""
    if member == MEMBER:
        return "anthropic"
    if member in PUBLIC:
        return "public"
    # `deleted:serviceAccount:NAME@…?uid=N` is how IAM keeps a deleted member
    email = member.partition("?")[0].rpartition(":")[2].casefold()
    if member.startswith("deleted:"):
        return "deleted" if email == SERVICE_ACCOUNT else "other"
    account, _, domain = email.partition("@")
    alike = account == _ACCOUNT or domain == _DOMAIN
    if alike or SequenceMatcher(None, email, SERVICE_ACCOUNT).ratio() >= _SIMILAR:
        return "look_alike"
    return "other"


def of_kind(grants: Iterable[Grant], kind: MemberKind) -> list[Grant]:
    """Those grants whose member is of that kind."""
    return [grant for grant in grants if kind_of(grant.member) == kind]


def describe(grants: Iterable[Grant]) -> str:
    """Each as `role to member on resource if condition`; of many only the first ones."""
    return listed(
        (
            f"{one.role} to {one.member} on {one.resource}"
            + (f" if {one.condition}" if one.condition else "")
            for one in grants
        ),
        separator="; ",
    )


def _conditional(binding: policy_pb2.Binding) -> bool:
    return bool(binding.HasField("condition"))
