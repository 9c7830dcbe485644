"""Everything that was read about a key, before any rule judges it.

`Findings` is for prerequisites and diagnosis, `KeySnapshot` for health. A field is None when it was
not read: there was nothing to read, or the check was quick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from google.iam.v1 import policy_pb2
from pydantic import JsonValue

from cmek._http import Failed, Result, ok_value
from cmek.anthropic.models import ExternalKey, Organization, Validation, Workspace
from cmek.canonical import digest
from cmek.gcp.iam import Grant, PolicyView, grants_in, reaches_kms
from cmek.gcp.project_apis import (
    AccessPolicy,
    BillingInfo,
    CustomConstraint,
    OrgPolicy,
    Project,
    ProtectedResources,
    Service,
    ServicePerimeter,
)
from cmek.gcp.resources import CryptoKey, KeyRing, KeyVersion, Location
from cmek.keys.verdicts import Baseline, Depth, UnreachableState
from cmek.names import BadNameError, KeyName


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleFindings:
    """What was read around the key: project, folders, organization."""

    caller: str = "user:CALLER"
    """The IAM member of the credentials; a placeholder when they do not say."""
    project: Result[Project]
    billing: Result[BillingInfo]
    kms_service: Result[Service]
    project_permissions: Result[frozenset[str]]
    ancestors: Result[tuple[str, ...]]
    """Folders and the organization above the project, nearest first."""
    policies: Mapping[str, Result[policy_pb2.Policy]]
    """IAM policies by resource name: the project and each ancestor."""
    org_policies: Mapping[str, Result[OrgPolicy]]
    """Effective organization policies by constraint."""
    custom_constraints: Result[tuple[CustomConstraint, ...]] | None
    access_policies: Result[tuple[AccessPolicy, ...]] | None
    perimeters: tuple[Result[tuple[ServicePerimeter, ...]], ...]
    """One entry for each access policy."""

    @property
    def project_number(self) -> str | None:
        """The project's number; None when the project could not be read."""
        project = ok_value(self.project)
        return project.number if project else None

    @property
    def organization(self) -> str | None:
        """`organizations/N`; None when the project is in none, or its ancestors are not known."""
        return organization_in(ok_value(self.ancestors) or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsFindings:
    """What was read from Cloud KMS about location, ring and key."""

    location: Result[Location]
    key_ring: Result[KeyRing | None]
    key: Result[CryptoKey | None]
    ring_policy: Result[policy_pb2.Policy] | None
    key_policy: Result[policy_pb2.Policy] | None
    ring_permissions: Result[frozenset[str]] | None
    key_permissions: Result[frozenset[str]] | None
    protected: Result[ProtectedResources] | None

    @property
    def answers(self) -> tuple[Result[Any], ...]:
        """The reads whose refusal can show a disabled API, missing billing or a perimeter."""
        return (self.location, self.key_ring, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicFindings:
    """What was read from the Admin API about organization and workspace."""

    organization: Result[Organization]
    external_keys: Result[bool]
    """Whether the first page of external keys could be listed."""
    workspace: Result[Workspace] | None
    """None when it is still to be created: then `workspaces` shows whether its name is free."""
    workspace_key: Result[ExternalKey] | None
    """The external key that the workspace already has; None without one."""
    workspaces: Result[tuple[Workspace, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """The results of all reads, successful and failed."""

    google: GoogleFindings
    kms: KmsFindings
    anthropic: AnthropicFindings

    @property
    def refusals(self) -> tuple[Failed, ...]:
        """All failed reads."""
        parts = (self.google, self.kms, self.anthropic)
        return tuple(one for part in parts for one in _reads(part) if isinstance(one, Failed))


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


@dataclass(frozen=True, kw_only=True)
class KeySnapshot:
    """What one check of a key read; a part is None when it was not read."""

    external_key_id: str
    registered_name: str
    """`provider_config.key_name` of the external key."""
    registered_at: datetime | None
    workspaces: tuple[str, ...]
    organization_id: UUID
    now: datetime
    """When it was read."""
    depth: Depth
    validation: Result[Validation] | None
    key: Result[CryptoKey | None] | None
    """`Ok(None)`: Cloud KMS says that there is no such key."""
    versions: Result[tuple[KeyVersion, ...]] | None = None
    policy: Result[PolicyView] | None = None
    ring_policy: Result[PolicyView] | None = None
    project_policy: Result[PolicyView] | None = None
    baseline: Baseline | None = None
    unreachable: UnreachableState | None = None
    """From earlier checks, like `baseline`."""

    @cached_property
    def name(self) -> KeyName | None:
        """The registered name, parsed; None when it is not the name of a crypto key."""
        try:
            return KeyName.parse(self.registered_name)
        except BadNameError:
            return None

    @property
    def crypto_key(self) -> CryptoKey | None:
        """The key; None when it was not read or does not exist."""
        return ok_value(self.key)

    def key_and_name(self) -> Iterator[tuple[CryptoKey, KeyName]]:
        """The key and its parsed name: one pair if both are known, else none."""
        if self.crypto_key and self.name:
            yield self.crypto_key, self.name

    @property
    def all_versions(self) -> tuple[KeyVersion, ...]:
        """All versions; empty when they were not read."""
        return ok_value(self.versions) or ()

    @property
    def old_versions(self) -> tuple[KeyVersion, ...]:
        """All versions but the primary."""
        key = self.crypto_key
        primary = key.primary.name if key and key.primary else None
        return tuple(version for version in self.all_versions if version.name != primary)

    @property
    def fingerprint(self) -> str | None:
        """Digest of the key, its primary and its policies, which a check of any depth reads.

        None when a part could not be read. It leaves out etags, since a service may renew them.
        """
        key, policies = self.crypto_key, (ok_value(self.policy), ok_value(self.ring_policy))
        if key is None or None in policies:
            return None
        above = ok_value(self.project_policy)
        seen: list[JsonValue] = [key.model_dump(mode="json")]
        seen += [
            policy.model_dump(mode="json")["bindings"] for policy in (*policies, above) if policy
        ]
        return digest(seen)

    @property
    def anthropic_failed(self) -> bool:
        """Whether Anthropic's validation ended as `failure`; a refused call is not one."""
        validation = ok_value(self.validation)
        return validation is not None and not validation.succeeded

    def grants(self) -> Iterator[Grant]:
        """Each grant on the key and on its ring."""
        yield from _grants(self.registered_name, self.policy)
        yield from _grants(self._ring, self.ring_policy)

    def all_grants(self) -> Iterator[Grant]:
        """Each grant on the key, its ring, and those on its project that allow something in KMS."""
        yield from self.grants()
        if self.name:
            above = _grants(f"projects/{self.name.project}", self.project_policy)
            yield from (one for one in above if reaches_kms(one.role))

    @property
    def _ring(self) -> str:
        return self.registered_name.rpartition("/cryptoKeys/")[0]


def _grants(resource: str, read: Result[PolicyView] | None) -> Iterator[Grant]:
    policy = ok_value(read)
    return grants_in(resource, policy) if policy else iter(())
