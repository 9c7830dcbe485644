"""A cause and the facts that prove or exclude it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import ConfigDict

from cmek.admin_models import ExternalKey
from cmek.checks.findings import Findings
from cmek.checks.outcome import Answer, Read, value_of
from cmek.kms_models import CryptoKey
from cmek.models import FrozenModel
from cmek.request import OnboardingRequest

Verdict = Literal["proved", "excluded", "open"]


class Cause(FrozenModel):
    """One known cause of a failed validation."""

    model_config = ConfigDict(extra="forbid")

    id: str
    title: str
    verdict: Verdict
    """`open`: neither proved nor excluded by what we may read."""
    why: str
    command: str
    """What mends it, or for an open cause also what would tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisFacts:
    """All that our own reads say after a failure. Anthropic's free text is no part of it."""

    request: OnboardingRequest
    findings: Findings
    external_key_id: str | None
    external_key: Read[ExternalKey] | None
    """None when nothing was registered yet."""
    granted_at: datetime | None
    """When the newest grant was written, as far as we know."""
    now: datetime
    error_code: str | None
    """`error.details.error_code` of a refused attach."""
    request_id: str | None
    """Of the failed validation or attach, for Anthropic's support."""

    @property
    def key(self) -> CryptoKey | None:
        """The crypto key, if there is one and we may read it."""
        return value_of(self.findings.kms.key)

    @property
    def key_is_gone(self) -> bool:
        """Cloud KMS says that there is no such key."""
        read = self.findings.kms.key
        return isinstance(read, Answer) and read.value is None

    @property
    def organization_id(self) -> UUID | None:
        """The organization whose label the key needs."""
        organization = value_of(self.findings.anthropic.organization)
        return organization.id if organization else self.request.expected_organization


@dataclass(frozen=True, slots=True)
class KnownCause:
    """The unchanging part of a cause."""

    id: str
    title: str
    reads: str
    """What proves or excludes it, for the documentation."""

    def proved(self, why: str, command: str) -> Cause:
        """It is so."""
        return self._cause("proved", why, command)

    def excluded(self, why: str, command: str = "none needed") -> Cause:
        """It is not so."""
        return self._cause("excluded", why, command)

    def open(self, why: str, command: str) -> Cause:
        """We can't tell."""
        return self._cause("open", why, command)

    def _cause(self, verdict: Verdict, why: str, command: str) -> Cause:
        return Cause(id=self.id, title=self.title, verdict=verdict, why=why, command=command)


Rule = Callable[[DiagnosisFacts], Cause]
