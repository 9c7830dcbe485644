"""The plan: the facts that an approver approves, and the digest that binds the approval to them.

It is built from live facts only, and contains what must not change between the approval and the
attach. It leaves out what may change harmlessly: the number of the primary version (a rotation
must not void an approval), other labels, members who can't decrypt, etags and times. The preview
shows, from reads alone, what an onboarding would write. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from pydantic import JsonValue

from cmek.addresses import GOOGLE_APIS
from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, ROLES, VIEWER
from cmek.canonical import digest
from cmek.gcp.resources import CryptoKey, KeyVersion
from cmek.keys.conditions import MISSING, has_organization_label, missing_roles
from cmek.keys.verdicts import Check, CheckReport, Prerequisite
from cmek.models import FrozenModel
from cmek.onboarding.request import OnboardingRequest
from cmek.plain_text import code, table

ENABLED = "ENABLED"
DESTROY_SCHEDULED = "DESTROY_SCHEDULED"
GOOGLE_TOKENS: Final = "https://oauth2.googleapis.com/token"


class LiveFacts(FrozenModel):
    """What `read_live_facts` has just read, never cached or stored; every plan is built from it."""

    organization_id: UUID
    workspace_id: str | None
    """None for a workspace that is still to be created."""
    workspace_name: str
    workspace_is_default: bool = False
    """Whether it is the organization's default workspace, or can't be told from it."""
    workspace_archived: bool
    workspace_external_key_id: str | None
    same_name_workspaces: tuple[str, ...] = ()
    """Live workspaces whose name equals, or looks like, that of the workspace to be created."""
    key: CryptoKey
    versions: tuple[KeyVersion, ...]
    granted_roles: frozenset[str]
    """Roles of Anthropic's service account on the key itself, without a condition."""
    external_key_id: str
    external_key_name: str | None
    """`provider_config.key_name` of the external key."""
    other_workspaces: tuple[str, ...] = ()
    """Ids of the other workspaces, archived ones too, that have this crypto key, by this external
    key or by another registration of it."""
    admin_base_url: str
    kms_endpoint: str
    checks_endpoint: str = GOOGLE_APIS
    """The address of the checks' reads: Google's own, unless the block names one."""
    token_endpoints: tuple[str, ...] = ()
    """Where Google's tokens come from; empty for the identity of the worker's machine."""

    @property
    def has_organization_label(self) -> bool:
        """Whether the key has this organization's label with the right value."""
        return has_organization_label(self.key, self.organization_id)

    @property
    def has_key_already(self) -> bool:
        """Whether the workspace has this external key."""
        return self.workspace_external_key_id == self.external_key_id

    @property
    def primary_state(self) -> str:
        """State of the primary version; `MISSING` when there is none."""
        return self.key.primary.state if self.key.primary else MISSING

    @property
    def versions_scheduled_for_destruction(self) -> tuple[KeyVersion, ...]:
        """Versions that are scheduled for destruction; destroyed ones do not block an attach."""
        return tuple(v for v in self.versions if v.state == DESTROY_SCHEDULED)


_NOT_CHECKED: Final = "Not checked: "
_FAILS: Final = "Fails: "


class PlanWarning(FrozenModel):
    """A prerequisite that did not pass; the approver must acknowledge it."""

    id: str
    """The id of the check."""
    title: str
    """One sentence: what will be the case, or what was not checked."""
    text: str
    """What was read, and who can tell. Not under the digest: a service may change its wording."""
    remedy: str | None = None
    """The command or console page that removes the warning; not under the digest either."""
    accepted: bool = False
    """Whether the policy accepts it: then it is shown, but need not be acknowledged."""

    @classmethod
    def of(cls, check: Check, accepted: Collection[str] = ()) -> PlanWarning:
        """The warning for a check that did not pass; a policy can accept only status `warn`."""
        titles = {
            "warn": WARNING_TITLES.get(check.id, check.title),
            "unknown": _NOT_CHECKED + check.title,
            "fail": _FAILS + check.title,
        }
        who = f" Who can tell: {check.who_can_tell}." if check.who_can_tell else ""
        text = f"{check.evidence.rstrip('.')}.{who}"
        return cls(
            id=check.id,
            title=titles[check.status],
            text=text,
            remedy=check.remedy,
            accepted=check.status == "warn" and check.id in accepted,
        )


WARNING_TITLES: Final = {
    "workspace": "The organization may have no room for another workspace",
    "features": "Structured outputs and Console Playground will be off",
    "effect_time": "Data of the next day may still be under Anthropic's own key",
    "broader_grants": "Anthropic's account can use more than this key",
    "look_alike_members": "A deleted account of Anthropic's still has a role",
    "key_shared": "Other systems depend on this key",
    "key_justifications": "Key Access Justifications leave out customer-initiated access",
    "drs_legacy": "Removed grants can't be restored: domain restricted sharing forbids them",
    "drs_managed": "Removed grants can't be restored: domain restricted sharing forbids them",
    "disable_before_destroy": "A key version can be destroyed without being disabled first",
    "location_policy": "Rotation will fail: an organization policy forbids the location",
    "protection_policy": "Rotation will fail: an organization policy forbids the protection level",
    "destroy_delay_policy": "Rotation will fail: an organization policy forbids the destroy delay",
    "perimeter": "A perimeter in dry run may keep Anthropic out",
}
"""The title of the warning, by the id of the check."""


class Plan(FrozenModel):
    """What is approved. Every field is under the digest; of a warning only its id and title."""

    organization_id: UUID
    project_number: str | None
    workspace_id: str | None
    """None for a workspace that is created after the approval."""
    workspace_name: str
    workspace_is_default: bool = False
    """Whether it is the organization's default workspace, which every API key without one uses."""
    key_name: str
    purpose: str
    algorithm: str
    protection_level: str
    import_only: bool
    key_access_justifications: tuple[str, ...] | None
    organization_label: bool
    encrypter_decrypter_grant: bool
    viewer_grant: bool
    adopts_key: bool = False
    """The key existed and is not known to be ours. The fields for label and grants show the state
    after the adoption; both are written only after the approval."""
    external_key_id: str
    external_key_name: str | None
    other_decrypters: tuple[str, ...] = ()
    """All members besides Anthropic who can decrypt with the key: `MEMBER (ROLE on RESOURCE)`."""
    unread_policies: tuple[str, ...] = ()
    """Resources with an unreadable IAM policy, so that the list above may be incomplete."""
    other_workspaces: tuple[str, ...] = ()
    """Ids of the other workspaces whose data is under the same crypto key."""
    imported_versions: tuple[str, ...] = ()
    """Numbers of the versions whose key material came from outside Cloud KMS."""
    request: OnboardingRequest
    admin_base_url: str
    kms_endpoint: str
    checks_endpoint: str = GOOGLE_APIS
    """The address of the checks' reads: Google's own, unless the block names one."""
    token_endpoints: tuple[str, ...] = ()
    """Where Google's tokens come from; empty for the identity of the worker's machine."""
    warnings: tuple[PlanWarning, ...]
    """What the approver must acknowledge: one for each check that did not pass."""

    @property
    def warning_titles(self) -> tuple[str, ...]:
        """Titles of all warnings: a signature acknowledges these."""
        return tuple(one.title for one in self.warnings)

    @property
    def to_acknowledge(self) -> tuple[str, ...]:
        """Titles of the warnings that the policy has not accepted already."""
        return tuple(one.title for one in self.warnings if not one.accepted)

    @property
    def bound(self) -> Plan:
        """This plan without the fields that the digest does not cover.

        Whoever can change a stored plan can change those without a trace. `accepted` is computed
        again, from the request and the titles, which are covered.
        """
        never = (ADOPTION_TITLE, _NOT_CHECKED, _FAILS)
        warnings = tuple(
            PlanWarning(
                id=one.id,
                title=one.title,
                text="",
                accepted=one.id in self.request.accepted_warnings
                and not one.title.startswith(never),
            )
            for one in self.warnings
        )
        return self.model_copy(update={"warnings": warnings})

    @property
    def covered(self) -> dict[str, JsonValue]:
        """Everything that the digest covers."""
        # not the texts: a new wording of a service must not void an approval
        warnings = [{"id": one.id, "title": one.title} for one in self.warnings]
        return self.model_dump(mode="json", exclude={"warnings"}) | {"warnings": [*warnings]}

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of `covered`, 64 hex digits."""
        return digest(self.covered)


class Difference(FrozenModel):
    """One fact under the digest that is no longer what the approver saw."""

    field: str
    was: JsonValue
    now: JsonValue

    def __str__(self) -> str:
        if isinstance(self.was, list) and isinstance(self.now, list):
            added = [f"new: {one}" for one in self.now if one not in self.was]
            removed = [f"no longer: {one}" for one in self.was if one not in self.now]
            return f"{self.field.replace('_', ' ')}: {'; '.join((*added, *removed))}"
        return f"{self.field}: was {self.was!r}, is {self.now!r}"


ADOPTION_TITLE: Final = "This key existed before: the approval also allows label and grants on it"
POLICY_CHANGED_TITLE: Final = "The policy has changed since this run started"


def _adoption_warning(facts: LiveFacts) -> PlanWarning:
    """The same digest before and after label and grants are on the key: only the text differs."""
    name = facts.key.name
    label = ["the organization label"] if facts.has_organization_label else []
    there = ", ".join((*label, *sorted(facts.granted_roles & set(ROLES))))
    written = f"On it already: {there}" if there else "Nothing is written to it before the approval"
    return PlanWarning(
        id="adopts_key",
        title=ADOPTION_TITLE,
        text=f"It is not proved that an onboarding of this organization made {name}, so it may "
        f"protect other data. {written}. Who can decrypt with it is above.",
        remedy="if that is not what you want: reject, and request a key of another name",
    )


def possible_titles(catalogue: Iterable[Prerequisite]) -> tuple[str, ...]:
    """Every title that a plan's warning can have, for these checks."""
    checks = [
        found
        for one in catalogue
        for found in (one.warned(""), one.unknown(""), one.failed("", "-"))
    ]
    titles = dict.fromkeys(PlanWarning.of(one).title for one in checks)
    return (ADOPTION_TITLE, POLICY_CHANGED_TITLE, *titles)


def build_plan(
    facts: LiveFacts, request: OnboardingRequest, report: CheckReport, *, adopting: bool = False
) -> Plan:
    """The plan for these facts.

    Args:
        facts: Just read.
        request: The pinned request.
        report: The prerequisites, checked with the existing key; each that did not pass becomes a
            warning.
        adopting: Whether the key existed, and the approval is also to allow its adoption.
    """
    # sorted by id, so that the same warnings always give the same digest
    noted = sorted((*report.warnings, *report.unknown, *report.failed), key=lambda one: one.id)
    return Plan(
        organization_id=facts.organization_id,
        project_number=report.project_number,
        workspace_id=facts.workspace_id,
        workspace_name=facts.workspace_name,
        workspace_is_default=facts.workspace_is_default,
        key_name=facts.key.name,
        purpose=facts.key.purpose,
        algorithm=facts.key.algorithm,
        protection_level=facts.key.protection_level,
        import_only=facts.key.import_only,
        key_access_justifications=facts.key.justifications_policy,
        # as after the adoption, so that the digest is the same before and after it
        organization_label=adopting or facts.has_organization_label,
        encrypter_decrypter_grant=adopting or ENCRYPTER_DECRYPTER in facts.granted_roles,
        viewer_grant=adopting or VIEWER in facts.granted_roles,
        adopts_key=adopting,
        external_key_id=facts.external_key_id,
        external_key_name=facts.external_key_name,
        other_decrypters=report.other_decrypters,
        unread_policies=report.unread_policies,
        other_workspaces=facts.other_workspaces,
        imported_versions=tuple(one.id for one in facts.versions if one.is_imported),
        request=request,
        admin_base_url=facts.admin_base_url,
        kms_endpoint=facts.kms_endpoint,
        checks_endpoint=facts.checks_endpoint,
        token_endpoints=facts.token_endpoints,
        warnings=(
            *((_adoption_warning(facts),) if adopting else ()),
            *(PlanWarning.of(one, request.accepted_warnings) for one in noted),
        ),
    )


def differences(was: Plan, now: Plan) -> tuple[Difference, ...]:
    """Every field in which two plans differ, by dotted name."""
    before, after = _leaves(was), _leaves(now)
    return tuple(
        Difference(field=name, was=before[name], now=after[name])
        for name in sorted(before)
        if before[name] != after[name]
    )


def _leaves(plan: Plan) -> dict[str, JsonValue]:
    # the request is compared field by field, so that a difference names the one that changed
    data = plan.covered | {"warnings": [*plan.warning_titles]}
    request = plan.request.model_dump(mode="json")
    del data["request"]
    return data | {f"request.{name}": value for name, value in request.items()}


Action = Literal[
    "nothing", "create", "adopt", "grant", "register", "approve and attach", "approve and create"
]


@dataclass(frozen=True, slots=True)
class Step:
    """One guide step, and what a run would do in it."""

    number: int
    title: str
    action: Action
    resource: str


@dataclass(frozen=True, slots=True)
class ExistingResources:
    """What exists already; the preview is computed from it."""

    ring_exists: bool
    key: CryptoKey | None
    key_is_ours: bool
    granted_roles: frozenset[str]
    external_key_id: str | None
    attached: bool


def preview(request: OnboardingRequest, found: ExistingResources) -> tuple[Step, ...]:
    """What a run of this request would write now; `nothing` for a step that needs no write."""
    ring, name = request.key_name.key_ring_name, str(request.key_name)
    adopted = found.key is not None and not found.key_is_ours
    key_action: Action = "adopt" if adopted else "nothing" if found.key else "create"
    granted = not missing_roles(found.granted_roles)
    registered = found.external_key_id is not None
    if request.create_workspace is not None:
        last = Step(7, "New workspace", "approve and create", request.create_workspace)
    else:
        action: Action = "nothing" if found.attached else "approve and attach"
        last = Step(7, "Attach", action, request.subject)
    # steps 4 (key name) and 6 (validation) write nothing
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
