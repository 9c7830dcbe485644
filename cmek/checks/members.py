"""Who a policy's member is: Anthropic's published account, the public, or an impostor.

Source: guide step 3, which warns of identifiers received in any other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final, Literal

from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import MEMBER, SERVICE_ACCOUNT

Kind = Literal["anthropic", "public", "deleted", "look_alike", "other"]

PUBLIC: Final = frozenset({"allUsers", "allAuthenticatedUsers"})
_ACCOUNT, _, _DOMAIN = SERVICE_ACCOUNT.partition("@")
_SIMILAR: Final = 0.9


@dataclass(frozen=True, slots=True)
class Grant:
    """One member's role in one resource's policy."""

    resource: str
    role: str
    member: str
    condition: str | None
    """The expression of the binding's condition; None = without condition."""


def grants_in(resource: str, policy: policy_pb2.Policy) -> Iterator[Grant]:
    """Every (role, member, condition) of a policy."""
    for binding in policy.bindings:
        condition = binding.condition.expression or None
        for member in binding.members:
            yield Grant(resource, binding.role, member, condition)


def kind_of(member: str) -> Kind:
    """Exact for Anthropic's account and the public, by likeness for impostors."""
    if member == MEMBER:
        return "anthropic"
    if member in PUBLIC:
        return "public"
    email = member.partition("?")[0].rpartition(":")[2].casefold()
    if member.startswith("deleted:"):
        return "deleted" if email == SERVICE_ACCOUNT else "other"
    account, _, domain = email.partition("@")
    alike = account == _ACCOUNT or domain == _DOMAIN
    if alike or SequenceMatcher(None, email, SERVICE_ACCOUNT).ratio() >= _SIMILAR:
        return "look_alike"
    return "other"


def of_kind(grants: Iterable[Grant], kind: Kind) -> list[Grant]:
    """Those grants whose member is of that kind."""
    return [grant for grant in grants if kind_of(grant.member) == kind]


def describe(grants: Iterable[Grant]) -> str:
    """`role to member on resource`, one after the other."""
    return "; ".join(f"{one.role} to {one.member} on {one.resource}" for one in grants)
