"""The gate: may this approval attach this plan now? Pure, no I/O.

`decide` is the only way to a `Permit`, and attaching takes a permit, not a boolean.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cmek.anthropic_identity import ROLES
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
    """A person said no."""
    REAPPROVAL_REQUIRED = "Not approved for this plan"
    """Attachable facts, but not the approved ones or looked at too slowly; or no answer counts."""
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
        """A no outweighs everything; a stop outweighs another ask."""
        kinds = {reason.kind for reason in self.reasons}
        for kind in (RefusalKind.REJECTED, RefusalKind.BLOCKED):
            if kind in kinds:
                return kind
        return RefusalKind.REAPPROVAL_REQUIRED

    @property
    def is_stale_validation_only(self) -> bool:
        """Nothing is wrong but how long it took to look: another look may be quicker."""
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
    """What was read and proved after the answer had been loaded."""

    facts: LiveFacts
    plan: Plan
    validation: ValidationProof
    failed_checks: tuple[str, ...]
    response_loaded_at: float
    """Monotonic seconds."""
    latest_request_number: int
    pinned: OnboardingRequest
    signatures: Signatures


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
    answer: ApprovalResponse,
    gate_input: GateInput,
    *,
    now: datetime,
    monotonic: float,
) -> Permit | Refusal:
    """Weigh one answer against the world as it is now.

    Args:
        approval_request: The recorded ask that was answered.
        answer: What came back; its digest is compared with the live plan.
        gate_input: Read, validated and rebuilt after the answer was loaded.
        now: Wall clock, with time zone, for the expiry.
        monotonic: `time.monotonic()` of this process, for the freshness of the validation.
    """
    reasons = (
        *_check_response(approval_request, answer, gate_input),
        *_check_signatures(approval_request, answer, gate_input, now),
        *_check_time(approval_request, gate_input, now, monotonic),
        *_check_plan(approval_request, answer, gate_input.plan),
        *_check_facts(gate_input),
    )
    if reasons:
        return Refusal(reasons)
    return Permit(
        request=gate_input.pinned,
        external_key_id=gate_input.plan.external_key_id,
        plan_digest=gate_input.plan.digest,
        approver=answer.approver,
        signers=tuple(str(one) for one in gate_input.signatures.verified),
        valid_until=gate_input.validation.started_at + FRESHNESS_SECONDS,
        expires_at=approval_request.expires_at,
        seal=_SEAL,
    )


def _check_response(
    approval_request: ApprovalRequest, answer: ApprovalResponse, gate_input: GateInput
) -> list[RefusalReason]:
    request = gate_input.pinned
    reasons = []
    if answer.decision == "reject":
        reasons.append(
            RefusalReason("rejected", f"rejected: {answer.comment}", RefusalKind.REJECTED)
        )
    typed = (answer.workspace_id, answer.workspace_name)
    if typed != (request.workspace_id, request.create_workspace):
        what = "name" if request.create_workspace else "id"
        text = f"the typed workspace {what} is another one"
        reasons.append(RefusalReason("workspace_id", text, RefusalKind.REAPPROVAL_REQUIRED))
    if request.four_eyes and same_identity(answer.approver, request.requested_by):
        text = "four eyes: the approver is the person who asked; somebody else must approve"
        reasons.append(RefusalReason("four_eyes", text, RefusalKind.REAPPROVAL_REQUIRED))
    if not answer.approver.strip():
        reasons.append(
            RefusalReason(
                "approver", "the answer names no approver", RefusalKind.REAPPROVAL_REQUIRED
            )
        )
    if gate_input.plan.warnings and not answer.acknowledge_warnings:
        text = "the warnings were not acknowledged"
        reasons.append(RefusalReason("warnings", text, RefusalKind.REAPPROVAL_REQUIRED))
    if approval_request.number != gate_input.latest_request_number:
        text = (
            f"this responds to approval request {approval_request.number}, the latest is "
            f"{gate_input.latest_request_number}"
        )
        reasons.append(RefusalReason("stale_ask", text, RefusalKind.BLOCKED))
    return reasons


def _check_signatures(
    approval_request: ApprovalRequest,
    answer: ApprovalResponse,
    gate_input: GateInput,
    now: datetime,
) -> list[RefusalReason]:
    """Anybody may say no; a yes must be signed where the worker or the request says so."""
    if answer.decision == "reject":
        return []
    found = signature_problems(
        approval_request, answer, gate_input.plan, gate_input.signatures, now=now
    )
    return [RefusalReason("signature", flaw, RefusalKind.REAPPROVAL_REQUIRED) for flaw in found]


def _check_time(
    approval_request: ApprovalRequest, gate_input: GateInput, now: datetime, monotonic: float
) -> list[RefusalReason]:
    proof = gate_input.validation
    reasons = []
    if now > approval_request.expires_at:
        text = f"the ask expired at {approval_request.expires_at:%Y-%m-%d %H:%M:%S %Z}"
        reasons.append(RefusalReason("expired", text, RefusalKind.REAPPROVAL_REQUIRED))
    if not proof.succeeded:
        text = f"Anthropic's validation of {gate_input.plan.key_name} failed: {proof.error}"
        reasons.append(RefusalReason("validation", text, RefusalKind.BLOCKED))
    if proof.started_at < gate_input.response_loaded_at:
        text = "the validation was started before the answer was loaded"
        reasons.append(RefusalReason("validation_order", text, RefusalKind.BLOCKED))
    if not 0 <= monotonic - proof.started_at <= FRESHNESS_SECONDS:
        text = f"the validation is older than {FRESHNESS_SECONDS:.0f} s"
        reasons.append(RefusalReason(VALIDATION_AGE, text, RefusalKind.REAPPROVAL_REQUIRED))
    return reasons


def _check_plan(
    approval_request: ApprovalRequest, answer: ApprovalResponse, live: Plan
) -> list[RefusalReason]:
    if answer.plan_digest == live.digest:
        return []
    named = differences(approval_request.plan, live)
    text = "; ".join(str(one) for one in named) or "the answer is for another plan"
    return [
        RefusalReason("plan", f"not the approved plan: {text}", RefusalKind.REAPPROVAL_REQUIRED)
    ]


def _check_facts(gate_input: GateInput) -> list[RefusalReason]:
    facts, plan = gate_input.facts, gate_input.plan
    found = {
        "request": plan.request != gate_input.pinned and "the request is not the pinned one",
        "archived": facts.workspace_archived and "the workspace is archived",
        "attached": facts.workspace_external_key_id is not None
        and f"the workspace already has the key {facts.workspace_external_key_id}",
        "namesakes": facts.namesakes
        and f"a workspace of this name exists by now: {', '.join(facts.namesakes)}",
        "primary": facts.primary_state != ENABLED
        and f"the primary version of {facts.key.name} is {facts.primary_state}",
        "doomed": facts.versions_scheduled_for_destruction
        and "scheduled for destruction: "
        + ", ".join(version.name for version in facts.versions_scheduled_for_destruction),
        "label": not facts.has_organization_label
        and f"{facts.key.name} lacks the organization label",
        "grants": not facts.granted_roles.issuperset(ROLES)
        and "missing on the key: " + ", ".join(sorted(set(ROLES) - facts.granted_roles)),
        "key_name": facts.key.name != str(gate_input.pinned.key_name)
        and f"the key is {facts.key.name}, asked for was {gate_input.pinned.key_name}",
        "external_key": facts.external_key_name != facts.key.name
        and f"external key {facts.external_key_id} is of {facts.external_key_name}",
        "checks": gate_input.failed_checks
        and "prerequisites that fail now: " + ", ".join(gate_input.failed_checks),
    }
    return [RefusalReason(code, text, RefusalKind.BLOCKED) for code, text in found.items() if text]
