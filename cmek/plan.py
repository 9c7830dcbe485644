"""The plan: the facts that an approver approves, and the digest that binds the approval to them.

It covers what must not change between the approval and the attach. It leaves out what may change
by itself: the primary's number (a rotation does not void an approval), other labels and members,
etags and times.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import JsonValue

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, VIEWER
from cmek.canonical import digest
from cmek.live_facts import LiveFacts
from cmek.models import FrozenModel
from cmek.request import OnboardingRequest


class Plan(FrozenModel):
    """Every field here is under the digest."""

    organization_id: UUID
    project_number: str | None
    workspace_id: str | None
    """None for a workspace that the approval creates."""
    workspace_name: str
    key_name: str
    purpose: str
    algorithm: str
    protection_level: str
    import_only: bool
    key_access_justifications: tuple[str, ...] | None
    organization_label: bool
    encrypter_decrypter_grant: bool
    viewer_grant: bool
    external_key_id: str
    external_key_name: str | None
    request: OnboardingRequest
    admin_base_url: str
    kms_endpoint: str
    warnings: tuple[str, ...]
    """What the approver must acknowledge, sorted: ids and titles of checks that did not pass."""

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all fields, 64 hex digits."""
        return digest(self)


class Difference(FrozenModel):
    """One covered fact that is no longer what the approver saw."""

    field: str
    was: JsonValue
    now: JsonValue

    def __str__(self) -> str:
        return f"{self.field}: was {self.was!r}, is {self.now!r}"


def build_plan(
    facts: LiveFacts,
    request: OnboardingRequest,
    *,
    project_number: str | None,
    warnings: tuple[str, ...],
) -> Plan:
    """The plan for these facts; `request` is the pinned one."""
    return Plan(
        organization_id=facts.organization_id,
        project_number=project_number,
        workspace_id=facts.workspace_id,
        workspace_name=facts.workspace_name,
        key_name=facts.key.name,
        purpose=facts.key.purpose,
        algorithm=facts.key.algorithm,
        protection_level=facts.key.protection_level,
        import_only=facts.key.import_only,
        key_access_justifications=facts.key.justifications_policy,
        organization_label=facts.has_organization_label,
        encrypter_decrypter_grant=ENCRYPTER_DECRYPTER in facts.granted_roles,
        viewer_grant=VIEWER in facts.granted_roles,
        external_key_id=facts.external_key_id,
        external_key_name=facts.external_key_name,
        request=request,
        admin_base_url=facts.admin_base_url,
        kms_endpoint=facts.kms_endpoint,
        warnings=tuple(sorted(warnings)),
    )


def differences(was: Plan, now: Plan) -> tuple[Difference, ...]:
    """Every leaf in which two plans differ, by dotted field name."""
    before, after = _leaves(was), _leaves(now)
    return tuple(
        Difference(field=name, was=before[name], now=after[name])
        for name in sorted(before)
        if before[name] != after[name]
    )


def _leaves(plan: Plan) -> dict[str, JsonValue]:
    data = plan.model_dump(mode="json")
    request = data.pop("request")
    return data | {f"request.{name}": value for name, value in request.items()}
