"""Everything that the checks read, before anybody judges it.

A field that may be None was not asked for, because there is nothing to ask about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from google.iam.v1 import policy_pb2

from cmek.admin_models import ExternalKey, Organization, Workspace
from cmek.checks.google_models import (
    AccessPolicy,
    BillingInfo,
    CustomConstraint,
    OrgPolicy,
    Project,
    ProtectedResources,
    Service,
    ServicePerimeter,
)
from cmek.checks.outcome import Read, Refused, value_of
from cmek.kms_models import CryptoKey, KeyRing, Location


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleFindings:
    """What stands around the key: project, folders, organization."""

    caller: str = "user:CALLER"
    """The member that these credentials are, where they tell."""
    project: Read[Project]
    billing: Read[BillingInfo]
    kms_service: Read[Service]
    project_permissions: Read[frozenset[str]]
    ancestors: Read[tuple[str, ...]]
    """Folders and the organization above the project, nearest first."""
    policies: Mapping[str, Read[policy_pb2.Policy]]
    """IAM policies by resource name: the project and each ancestor."""
    org_policies: Mapping[str, Read[OrgPolicy]]
    """Effective organization policies by constraint."""
    custom_constraints: Read[tuple[CustomConstraint, ...]] | None
    access_policies: Read[tuple[AccessPolicy, ...]] | None
    perimeters: tuple[Read[tuple[ServicePerimeter, ...]], ...]
    """One entry for each access policy."""

    @property
    def project_number(self) -> str | None:
        """The project's number, if it could be read."""
        project = value_of(self.project)
        return project.number if project else None

    @property
    def organization(self) -> str | None:
        """`organizations/N`, if the project stands in one and the ancestry could be read."""
        return organization_in(value_of(self.ancestors) or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsFindings:
    """What Cloud KMS says about location, ring and key."""

    location: Read[Location]
    key_ring: Read[KeyRing | None]
    key: Read[CryptoKey | None]
    ring_policy: Read[policy_pb2.Policy] | None
    key_policy: Read[policy_pb2.Policy] | None
    ring_permissions: Read[frozenset[str]] | None
    key_permissions: Read[frozenset[str]] | None
    protected: Read[ProtectedResources] | None

    @property
    def answers(self) -> tuple[Read[Any], ...]:
        """The reads whose refusal tells of a disabled API, missing billing or a perimeter."""
        return (self.location, self.key_ring, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicFindings:
    """What the Admin API says about organization and workspace."""

    organization: Read[Organization]
    external_keys: Read[bool]
    """Whether the first page of external keys could be listed."""
    workspace: Read[Workspace] | None
    """None when it is still to be created; then `workspaces` tells who has its name."""
    workspace_key: Read[ExternalKey] | None
    """The external key that the workspace already has."""
    workspaces: Read[tuple[Workspace, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """Answers and refusals of all reads."""

    google: GoogleFindings
    kms: KmsFindings
    anthropic: AnthropicFindings

    @property
    def refusals(self) -> tuple[Refused, ...]:
        """Every read that was refused."""
        parts = (self.google, self.kms, self.anthropic)
        return tuple(one for part in parts for one in _reads(part) if isinstance(one, Refused))


def organization_in(ancestors: tuple[str, ...]) -> str | None:
    """The organization among a project's ancestors."""
    return next((name for name in ancestors if name.startswith("organizations/")), None)


def _reads(part: GoogleFindings | KmsFindings | AnthropicFindings) -> Iterator[object]:
    for one in fields(part):
        value = getattr(part, one.name)
        if isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, tuple):
            yield from value
        else:
            yield value
