"""The gate: may this approval attach this plan now? Pure, no I/O.

`decide` is the only way to a `Permit`, and attaching takes a permit, not a boolean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cmek.errors import listed
from cmek.keys.conditions import missing_roles
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse, same_identity
from cmek.onboarding.plan import ENABLED, LiveFacts, Plan, differences
from cmek.onboarding.request import OnboardingRequest
from cmek.signatures.verification import Signatures, signature_problems

VALIDATION_AGE: Final = "validation_age"
FRESHNESS_SECONDS: Final = 60.0
"""A validation proves the key for this long, counted from its start on the monotonic clock."""


class RefusalKind(StrEnum):
    """What a refusal means for the run."""

    REJECTED = "Rejected"
    """A person rejected."""
    REAPPROVAL_REQUIRED = "Not approved for this plan"
    """Attachable facts, but not the approved ones or read too slowly; or no response counts."""
    BLOCKED = "Refused"
    """These facts must not be attached, whoever approves."""


@dataclass(frozen=True, slots=True)
class RefusalReason:
    """One reason of a refusal: a stable code and a sentence for people."""

    code: str
    text: str
    kind: RefusalKind


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, all reasons at once."""

    reasons: tuple[RefusalReason, ...]

    @property
    def kind(self) -> RefusalKind:
        """A rejection outweighs everything; a block outweighs another approval request."""
        kinds = {reason.kind for reason in self.reasons}
        outweighing = (RefusalKind.REJECTED, RefusalKind.BLOCKED)
        return next((one for one in outweighing if one in kinds), RefusalKind.REAPPROVAL_REQUIRED)

    @property
    def is_stale_validation_only(self) -> bool:
        """Nothing is wrong but how long the reads took: reading again may be quicker."""
        return {reason.code for reason in self.reasons} == {VALIDATION_AGE}

    def __str__(self) -> str:
        return "; ".join(reason.text for reason in self.reasons)


@dataclass(frozen=True, slots=True)
class ValidationProof:
    """A validation in this process's memory; a monotonic time means nothing in another one."""

    succeeded: bool
    started_at: float
    """Monotonic seconds."""
    error: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class GateInput:
    """What was read and proved after the response had been loaded."""

    facts: LiveFacts
    plan: Plan
    validation: ValidationProof
    failed_checks: tuple[str, ...]
    response_loaded_at: float
    """Monotonic seconds."""
    latest_request_number: int
    pinned: OnboardingRequest
    signatures: Signatures


# Only this module has it, so that no other code can make a permit.
_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to send one attach or create, until it goes stale. Only `decide` makes one."""

    request: OnboardingRequest
    """The pinned one: it says which workspace, or which new one."""
    external_key_id: str
    plan_digest: str
    approver: str
    signers: tuple[str, ...]
    """Approvers whose signatures were verified, with their keys; empty for a typed approval."""
    signed_approvals: str
    """As they came with the response: a gateway verifies them itself."""
    valid_until: float
    """Monotonic seconds of this process."""
    expires_at: datetime
    seal: object

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("a permit is made by gate.decide only")

    @property
    def workspace_id(self) -> str | None:
        """None when the permit is to create the workspace."""
        return self.request.workspace_id

    def is_fresh(self, *, now: datetime, monotonic: float) -> bool:
        """Whether the request may still be sent at this moment."""
        return monotonic <= self.valid_until and now <= self.expires_at


def decide(
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    gate_input: GateInput,
    *,
    now: datetime,
    monotonic: float,
) -> Permit | Refusal:
    """Compare one approval response with the live state.

    Args:
        approval_request: As recorded.
        response: What came back; its digest is compared with the live plan.
        gate_input: Read, validated and rebuilt after the response was loaded.
        now: Wall clock, with time zone, for the expiry.
        monotonic: `time.monotonic()` of this process, for the freshness of the validation.
    """
    reasons = (
        *_check_response(approval_request, response, gate_input),
        *_check_signatures(approval_request, response, gate_input, now),
        *_check_time(approval_request, gate_input, now, monotonic),
        *_check_plan(approval_request, response, gate_input.plan),
        *_check_facts(gate_input),
    )
    if reasons:
        return Refusal(reasons)
    return Permit(
        request=gate_input.pinned,
        external_key_id=gate_input.plan.external_key_id,
        plan_digest=gate_input.plan.digest,
        approver=response.approver,
        signers=tuple(str(one) for one in gate_input.signatures.verified),
        signed_approvals=response.signed_approvals,
        valid_until=gate_input.validation.started_at + FRESHNESS_SECONDS,
        expires_at=approval_request.expires_at,
        seal=_SEAL,
    )


_MADE_BY_ADOPTION: Final = frozenset(
    {"label", "grants", "validation", "validation_order", VALIDATION_AGE}
)
"""Codes of what can only be in order once label and grants are on the key."""


def adoption_refusal(
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    gate_input: GateInput,
    *,
    now: datetime,
) -> Refusal | None:
    """Why label and grants may not be added to a key that existed; None when they may.

    All that `decide` asks for but what only they can bring about; `decide` still follows.
    """
    verdict = decide(approval_request, response, gate_input, now=now, monotonic=0.0)
    if isinstance(verdict, Permit):
        return None
    left = tuple(one for one in verdict.reasons if one.code not in _MADE_BY_ADOPTION)
    return Refusal(left) if left else None


def _check_response(
    approval_request: ApprovalRequest, response: ApprovalResponse, gate_input: GateInput
) -> list[RefusalReason]:
    request = gate_input.pinned
    typed = (response.workspace_id, response.workspace_name)
    what = "name" if request.create_workspace else "id"
    approves = response.decision == "approve"
    rejected = not approves and f"rejected: {response.comment}"
    reapproval: dict[str, object] = {
        "workspace_id": typed != (request.workspace_id, request.create_workspace)
        and f"the typed workspace {what} is another one",
        "four_eyes": approves
        and request.four_eyes
        and same_identity(response.approver, request.requested_by)
        and "four eyes: the approver is the requester; another person must approve",
        "approver": not response.approver.strip() and "the response names no approver",
        "warnings": approves
        and gate_input.plan.to_acknowledge
        and not response.acknowledge_warnings
        and "the warnings were not acknowledged",
    }
    outdated = approval_request.number != gate_input.latest_request_number and (
        f"this responds to approval request {approval_request.number}, the latest is "
        f"{gate_input.latest_request_number}"
    )
    return [
        *_reasons(RefusalKind.REJECTED, {"rejected": rejected}),
        *_reasons(RefusalKind.REAPPROVAL_REQUIRED, reapproval),
        *_reasons(RefusalKind.BLOCKED, {"stale_request": outdated}),
    ]


def _check_signatures(
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    gate_input: GateInput,
    now: datetime,
) -> list[RefusalReason]:
    """Anyone may reject; an approval must be signed where the worker or the request says so."""
    if response.decision == "reject":
        return []
    found = signature_problems(
        approval_request, response, gate_input.plan, gate_input.signatures, now=now
    )
    return [RefusalReason("signature", flaw, RefusalKind.REAPPROVAL_REQUIRED) for flaw in found]


def _check_time(
    approval_request: ApprovalRequest, gate_input: GateInput, now: datetime, monotonic: float
) -> list[RefusalReason]:
    proof = gate_input.validation
    reapproval: dict[str, object] = {
        "expired": now > approval_request.expires_at
        and f"the approval request expired at {approval_request.expires_at:%Y-%m-%d %H:%M:%S %Z}",
        # not `>`: a time that can't be compared, or lies in the future, must not count as fresh
        VALIDATION_AGE: not 0 <= monotonic - proof.started_at <= FRESHNESS_SECONDS
        and f"the validation is older than {FRESHNESS_SECONDS:.0f} s",
    }
    blocked: dict[str, object] = {
        "validation": not proof.succeeded
        and f"Anthropic's validation of {gate_input.plan.key_name} failed: {proof.error}",
        "validation_order": proof.started_at < gate_input.response_loaded_at
        and "the validation was started before the response was loaded",
    }
    return [
        *_reasons(RefusalKind.REAPPROVAL_REQUIRED, reapproval),
        *_reasons(RefusalKind.BLOCKED, blocked),
    ]


def _check_plan(
    approval_request: ApprovalRequest, response: ApprovalResponse, live: Plan
) -> list[RefusalReason]:
    if response.plan_digest == live.digest:
        return []
    named = differences(approval_request.plan, live)
    text = "; ".join(map(str, named)) or "the response is for another plan"
    return _reasons(RefusalKind.REAPPROVAL_REQUIRED, {"plan": f"not the approved plan: {text}"})


def _check_facts(gate_input: GateInput) -> list[RefusalReason]:
    facts, plan = gate_input.facts, gate_input.plan
    found: dict[str, object] = {
        "request": plan.request != gate_input.pinned and "the request is not the pinned one",
        "archived": facts.workspace_archived and "the workspace is archived",
        "attached": facts.workspace_external_key_id is not None
        and f"the workspace already has the key {facts.workspace_external_key_id}",
        "same_name_workspaces": facts.same_name_workspaces
        and f"a workspace of this name exists by now: {listed(facts.same_name_workspaces)}",
        "primary": facts.primary_state != ENABLED
        and f"the primary version of {facts.key.name} is {facts.primary_state}",
        "scheduled_for_destruction": facts.versions_scheduled_for_destruction
        and "scheduled for destruction: "
        + listed(version.name for version in facts.versions_scheduled_for_destruction),
        "label": not facts.has_organization_label
        and f"{facts.key.name} lacks the organization label",
        "grants": (missing := missing_roles(facts.granted_roles))
        and f"missing on the key: {', '.join(missing)}",
        "key_name": facts.key.name != str(gate_input.pinned.key_name)
        and f"the key is {facts.key.name}, asked for was {gate_input.pinned.key_name}",
        "external_key": facts.external_key_name != facts.key.name
        and f"external key {facts.external_key_id} is of {facts.external_key_name}",
        "checks": gate_input.failed_checks
        and "prerequisites that fail now: " + ", ".join(gate_input.failed_checks),
    }
    return _reasons(RefusalKind.BLOCKED, found)


def _reasons(kind: RefusalKind, found: Mapping[str, object]) -> list[RefusalReason]:
    """A reason for each code that has a text; what is in order has something false."""
    return [RefusalReason(code, str(text), kind) for code, text in found.items() if text]
