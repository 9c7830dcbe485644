"""The plan: the facts that an approver approves, and the digest that binds the approval to them.

It is built from live facts only and covers what must not change between the approval and the
attach. It leaves out what may change by itself: the primary's number (a rotation does not void an
approval), other labels and members, etags and times. The preview says what an onboarding would
write, from reads alone. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from pydantic import JsonValue

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, ROLES, VIEWER
from cmek.canonical import digest
from cmek.gcp.resources import CryptoKey, KeyVersion
from cmek.keys.conditions import MISSING, has_organization_label
from cmek.markdown import code, table
from cmek.models import FrozenModel
from cmek.onboarding.request import OnboardingRequest

ENABLED = "ENABLED"
DESTROY_SCHEDULED = "DESTROY_SCHEDULED"


class LiveFacts(FrozenModel):
    """Read by `read_live_facts`, never cached and never persisted: the basis of every plan."""

    organization_id: UUID
    workspace_id: str | None
    """None while the workspace is still to be created."""
    workspace_name: str
    workspace_archived: bool
    workspace_external_key_id: str | None
    same_name_workspaces: tuple[str, ...] = ()
    """Live workspaces that have, or seem to have, the name of the one to be created."""
    key: CryptoKey
    versions: tuple[KeyVersion, ...]
    granted_roles: frozenset[str]
    """Roles of Anthropic's service account on the key itself, without a condition."""
    external_key_id: str
    external_key_name: str | None
    """`provider_config.key_name` of the external key."""
    admin_base_url: str
    kms_endpoint: str

    @property
    def has_organization_label(self) -> bool:
        """Whether the key carries this organization's label with the right value."""
        return has_organization_label(self.key, self.organization_id)

    @property
    def primary_state(self) -> str:
        """State of the primary version, `MISSING` when there is none."""
        return self.key.primary.state if self.key.primary else MISSING

    @property
    def versions_scheduled_for_destruction(self) -> tuple[KeyVersion, ...]:
        """Versions scheduled for destruction; a destroyed one blocks nothing."""
        return tuple(v for v in self.versions if v.state == DESTROY_SCHEDULED)


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
    # The request is compared field by field, so that a difference names one field of it.
    data = plan.model_dump(mode="json")
    request = data.pop("request")
    return data | {f"request.{name}": value for name, value in request.items()}


Action = Literal[
    "nothing", "create", "adopt", "grant", "register", "approve and attach", "approve and create"
]


@dataclass(frozen=True, slots=True)
class Step:
    """One guide step and what it would do."""

    number: int
    title: str
    action: Action
    resource: str


@dataclass(frozen=True, slots=True)
class ExistingResources:
    """What a preview is computed from."""

    ring_exists: bool
    key: CryptoKey | None
    granted_roles: frozenset[str]
    external_key_id: str | None
    attached: bool


def preview(
    request: OnboardingRequest, organization: UUID, found: ExistingResources
) -> tuple[Step, ...]:
    """The writes that a run of this request would make now; `nothing` where none is needed."""
    ring, name = request.key_name.key_ring_name, str(request.key_name)
    adopted = found.key is not None and not has_organization_label(found.key, organization)
    key_action: Action = "adopt" if adopted else "nothing" if found.key else "create"
    granted = found.granted_roles.issuperset(ROLES)
    registered = found.external_key_id is not None
    if request.create_workspace is not None:
        last = Step(7, "New workspace", "approve and create", request.create_workspace)
    else:
        action: Action = "nothing" if found.attached else "approve and attach"
        last = Step(7, "Attach", action, request.subject)
    return (
        Step(1, "Key ring", "nothing" if found.ring_exists else "create", ring),
        Step(2, "Crypto key", key_action, name),
        Step(3, "Grants", "nothing" if granted else "grant", name),
        Step(
            5,
            "External key",
            "nothing" if registered else "register",
            found.external_key_id or name,
        ),
        last,
    )


def preview_text(steps: tuple[Step, ...]) -> str:
    """The steps as a Markdown table."""
    return table(
        ("step", "", "would", "on"),
        ((str(step.number), step.title, step.action, code(step.resource)) for step in steps),
    )
