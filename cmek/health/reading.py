"""Everything that one look read about a key, before anybody judges it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from uuid import UUID

from cmek.admin_models import Validation
from cmek.checks.outcome import Read, value_of
from cmek.health.model import Baseline, Depth, Unreachability
from cmek.iam_policy import PolicyBinding, PolicyView
from cmek.kms_models import CryptoKey, KeyVersion
from cmek.names import BadNameError, KeyName

UNUSABLE = frozenset({"DISABLED", "DESTROY_SCHEDULED", "DESTROYED"})


@dataclass(frozen=True, kw_only=True)
class KeyReading:
    """Answers and refusals; None = not asked, because the look was quick or there is no key."""

    external_key_id: str
    registered_name: str
    """`provider_config.key_name` of the external key."""
    registered_at: datetime | None
    workspaces: tuple[str, ...]
    organization_id: UUID
    now: datetime
    """When it was read."""
    depth: Depth
    validation: Read[Validation]
    key: Read[CryptoKey | None] | None
    """An answer of None: Cloud KMS says that there is no such key."""
    versions: Read[tuple[KeyVersion, ...]] | None = None
    policy: Read[PolicyView] | None = None
    ring_policy: Read[PolicyView] | None = None
    project_policy: Read[PolicyView] | None = None
    baseline: Baseline | None = None
    unreachable: Unreachability | None = None
    """From the looks before."""

    @cached_property
    def name(self) -> KeyName | None:
        """The registered name, if it is a crypto key's."""
        try:
            return KeyName.parse(self.registered_name)
        except BadNameError:
            return None

    @property
    def found_key(self) -> CryptoKey | None:
        """The key, if it was read."""
        return value_of(self.key)

    def found(self) -> Iterator[tuple[CryptoKey, KeyName]]:
        """The key and its parsed name: once if both are there, else not at all."""
        if self.found_key and self.name:
            yield self.found_key, self.name

    @property
    def all_versions(self) -> tuple[KeyVersion, ...]:
        """All versions, empty when they were not read."""
        return value_of(self.versions) or ()

    @property
    def old_versions(self) -> tuple[KeyVersion, ...]:
        """All versions but the primary."""
        key = self.found_key
        primary = key.primary.name if key and key.primary else None
        return tuple(version for version in self.all_versions if version.name != primary)

    @property
    def anthropic_failed(self) -> bool:
        """Whether Anthropic answered that its round trip failed or timed out."""
        validation = value_of(self.validation)
        return validation is not None and not validation.succeeded

    def bindings(self) -> Iterator[tuple[str, PolicyBinding]]:
        """Each binding on the key and its ring, with the resource that it is on."""
        for where, read in ((self.registered_name, self.policy), (self._ring, self.ring_policy)):
            for binding in (value_of(read) or NO_POLICY).bindings:
                yield where, binding

    def bindings_above(self) -> Iterator[tuple[str, PolicyBinding]]:
        """Each binding on the key, its ring and its project.

        The project's owners and administrators are no news, so only rules about Anthropic's
        account and about the public look this far.
        """
        yield from self.bindings()
        if self.name:
            for binding in (value_of(self.project_policy) or NO_POLICY).bindings:
                yield f"projects/{self.name.project}", binding

    @property
    def _ring(self) -> str:
        return self.registered_name.rpartition("/cryptoKeys/")[0]


NO_POLICY = PolicyView(bindings=(), etag="")
