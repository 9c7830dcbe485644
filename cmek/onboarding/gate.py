"""The gate decides whether an approval permits attaching this key now. Pure, no I/O.

Only `decide` makes a `Permit`, and the attach requires a permit, not a boolean.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cmek.errors import listed
from cmek.keys.conditions import missing_roles
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse, same_identity
from cmek.onboarding.plan import ENABLED, LiveFacts, Plan, differences
from cmek.onboarding.request import OnboardingRequest
from cmek.signatures.verification import CLOCK_SKEW, Signatures, signature_problems

VALIDATION_AGE: Final = "validation_age"
STEADY: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock of a validation's age, for `time.clock_gettime`. Nobody can set it, and on Linux it
goes on while the machine is suspended, where `time.monotonic()` stands still."""
FRESHNESS_SECONDS: Final = 60.0
"""How long a validation is valid, counted from its start on the clock `STEADY`."""


class RefusalKind(StrEnum):
    """What a refusal means for the run."""

    REJECTED = "Rejected"
    """A person rejected."""
    REAPPROVAL_REQUIRED = "Not approved for this plan"
    """The key may be attached, but not by this response: the plan has changed, the response or its
    signatures are not valid, or the validation is too old."""
    BLOCKED = "Refused"
    """With these facts the key must not be attached, whoever approves."""


@dataclass(frozen=True, slots=True)
class RefusalReason:
    """One reason for a refusal: a stable code, and a text for people."""

    code: str
    text: str
    kind: RefusalKind


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal with all its reasons, not only the first."""

    reasons: tuple[RefusalReason, ...]

    @property
    def kind(self) -> RefusalKind:
        """The strongest kind: a rejection, then a block, then the need for another approval."""
        kinds = {reason.kind for reason in self.reasons}
        stronger = (RefusalKind.REJECTED, RefusalKind.BLOCKED)
        return next((one for one in stronger if one in kinds), RefusalKind.REAPPROVAL_REQUIRED)

    @property
    def is_stale_validation_only(self) -> bool:
        """Whether the only reason is that the reads took too long: another try may be quicker."""
        return {reason.code for reason in self.reasons} == {VALIDATION_AGE}

    def __str__(self) -> str:
        return "; ".join(reason.text for reason in self.reasons)


@dataclass(frozen=True, slots=True)
class ValidationProof:
    """A validation by this process; in another one its monotonic time would mean nothing."""

    succeeded: bool
    started_at: float
    """Monotonic seconds; before the request was sent."""
    error: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class GateInput:
    """What was read and validated after the approval response had been loaded."""

    facts: LiveFacts
    plan: Plan
    validation: ValidationProof
    failed_checks: tuple[str, ...]
    response_loaded_at: float
    """Monotonic seconds."""
    latest_request_number: int
    pinned: OnboardingRequest
    signatures: Signatures


# private to this module, so that no other code makes a permit by mistake
_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to send one attach or create, for a limited time. Only `decide` makes one."""

    request: OnboardingRequest
    """The pinned request, which names the workspace, or the one to create."""
    external_key_id: str
    plan_digest: str
    approver: str
    signers: tuple[str, ...]
    """Approvers with verified signatures, each with the key; empty for a typed approval."""
    signed_approvals: str
    """Unchanged from the response: a gateway verifies them again."""
    valid_until: float
    """End of the validation's freshness, in monotonic seconds of this process."""
    expires_at: datetime
    """When the approval request expires."""
    seal: object

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("a permit is made by gate.decide only")

    @property
    def workspace_id(self) -> str | None:
        """The workspace to attach to; None when the permit is to create one."""
        return self.request.workspace_id

    def is_fresh(self, *, now: datetime, monotonic: float) -> bool:
        """Whether the attach may still be sent at this moment."""
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
        approval_request: From the worker's own record.
        response: The approval response; its digest is compared with the live plan.
        gate_input: Read, validated and built after the response was loaded.
        now: Wall clock with time zone, for the expiry.
        monotonic: Seconds of the clock `STEADY`, for the freshness of the validation.
    """
    # every check runs, so that a person sees all reasons at once
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
        # the pinned request and the live plan, nothing that the response says
        request=gate_input.pinned,
        external_key_id=gate_input.plan.external_key_id,
        plan_digest=gate_input.plan.digest,
        approver=response.approver,
        signers=verified_by(gate_input),
        signed_approvals=response.signed_approvals,
        valid_until=gate_input.validation.started_at + FRESHNESS_SECONDS,
        expires_at=approval_request.expires_at,
        seal=_SEAL,
    )


_MADE_BY_ADOPTION: Final = frozenset(
    {"label", "grants", "validation", "validation_order", VALIDATION_AGE}
)
"""Codes of reasons that only label and grants can remove, so they must not prevent an adoption."""


def adoption_refusal(
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    gate_input: GateInput,
    *,
    now: datetime,
) -> Refusal | None:
    """Why label and grants may not be added to an existing key; None when they may.

    The checks of `decide`, except those that only label and grants can make pass. It gives no
    permit: `decide` runs again, with all checks, before the attach.
    """
    # any clock will do: the age of the validation is one of the codes that are left out
    verdict = decide(approval_request, response, gate_input, now=now, monotonic=0.0)
    if isinstance(verdict, Permit):
        return None
    left = tuple(one for one in verdict.reasons if one.code not in _MADE_BY_ADOPTION)
    return Refusal(left) if left else None


def _check_response(
    approval_request: ApprovalRequest, response: ApprovalResponse, gate_input: GateInput
) -> list[RefusalReason]:
    request = gate_input.pinned
    # as a pair: an id typed where a name is asked for matches neither
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


def verified_by(gate_input: GateInput) -> tuple[str, ...]:
    """Approvers with verified signatures, each with the key."""
    return tuple(str(one) for one in gate_input.signatures.verified)


def _check_signatures(
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    gate_input: GateInput,
    now: datetime,
) -> list[RefusalReason]:
    """Anyone may reject; an approval must be signed if the worker or the request requires it."""
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
        "clock": now < approval_request.requested_at - CLOCK_SKEW
        and f"this worker's clock shows {now:%Y-%m-%d %H:%M:%S %Z}, before the approval request of "
        f"{approval_request.requested_at:%Y-%m-%d %H:%M:%S %Z}: it was set back",
        # not `>`: with NaN, or a start in the future, the validation must not be fresh
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
    # what is named is compared with the recorded plan; the response has only a digest
    named = differences(approval_request.plan, live)
    text = "; ".join(map(str, named)) or "the response is for another plan"
    return _reasons(RefusalKind.REAPPROVAL_REQUIRED, {"plan": f"not the approved plan: {text}"})


def _check_facts(gate_input: GateInput) -> list[RefusalReason]:
    facts, plan = gate_input.facts, gate_input.plan
    # needed even if the digests are equal: not all of it is in the plan, and an approver may have
    # approved what must not be attached
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
    """A reason for each code with a text; a check that passed has a false value instead."""
    return [RefusalReason(code, str(text), kind) for code, text in found.items() if text]
