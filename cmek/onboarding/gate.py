"""The gate: may this approval attach this plan now? Pure, no I/O.

`decide` is the only way to a `Permit`, and attaching takes a permit, not a boolean.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from cmek.anthropic_identity import ROLES
from cmek.onboarding.approval import Answer, Ask, same_person
from cmek.onboarding.plan import ENABLED, LiveFacts, Plan, differences
from cmek.onboarding.request import OnboardingRequest
from cmek.signatures.verification import Signatures, flaws

VALIDATION_AGE: Final = "validation_age"
FRESHNESS_SECONDS: Final = 60.0
"""A validation proves the key for this long, counted from its start on the monotonic clock."""


class Course(StrEnum):
    """What a refusal means for the run."""

    REJECTED = "Rejected"
    """A person said no."""
    ASK_AGAIN = "Not answered for this plan"
    """Attachable facts, but not the approved ones or looked at too slowly; or no answer counts."""
    STOP = "Refused"
    """These facts must not be attached, whoever approves."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason of a refusal: a stable code and a sentence for people."""

    code: str
    text: str
    course: Course


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, all reasons at once."""

    reasons: tuple[Reason, ...]

    @property
    def course(self) -> Course:
        """A no outweighs everything; a stop outweighs another ask."""
        courses = {reason.course for reason in self.reasons}
        for course in (Course.REJECTED, Course.STOP):
            if course in courses:
                return course
        return Course.ASK_AGAIN

    @property
    def is_only_late(self) -> bool:
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
class Circumstances:
    """What was read and proved after the answer had been loaded."""

    facts: LiveFacts
    plan: Plan
    validation: ValidationProof
    failed_checks: tuple[str, ...]
    answer_loaded_at: float
    """Monotonic seconds."""
    latest_ask: int
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
    ask: Ask, answer: Answer, circumstances: Circumstances, *, now: datetime, monotonic: float
) -> Permit | Refusal:
    """Weigh one answer against the world as it is now.

    Args:
        ask: The recorded ask that was answered.
        answer: What came back; its digest is compared with the live plan.
        circumstances: Read, validated and rebuilt after the answer was loaded.
        now: Wall clock, with time zone, for the expiry.
        monotonic: `time.monotonic()` of this process, for the freshness of the validation.
    """
    reasons = (
        *_of_answer(ask, answer, circumstances),
        *_of_signatures(ask, answer, circumstances, now),
        *_of_time(ask, circumstances, now, monotonic),
        *_of_plan(ask, answer, circumstances.plan),
        *_of_facts(circumstances),
    )
    if reasons:
        return Refusal(reasons)
    return Permit(
        request=circumstances.pinned,
        external_key_id=circumstances.plan.external_key_id,
        plan_digest=circumstances.plan.digest,
        approver=answer.approver,
        signers=tuple(str(one) for one in circumstances.signatures.verified),
        valid_until=circumstances.validation.started_at + FRESHNESS_SECONDS,
        expires_at=ask.expires_at,
        seal=_SEAL,
    )


def _of_answer(ask: Ask, answer: Answer, circumstances: Circumstances) -> list[Reason]:
    request = circumstances.pinned
    reasons = []
    if answer.decision == "reject":
        reasons.append(Reason("rejected", f"rejected: {answer.comment}", Course.REJECTED))
    typed = (answer.workspace_id, answer.workspace_name)
    if typed != (request.workspace_id, request.create_workspace):
        what = "name" if request.create_workspace else "id"
        text = f"the typed workspace {what} is another one"
        reasons.append(Reason("workspace_id", text, Course.ASK_AGAIN))
    if request.four_eyes and same_person(answer.approver, request.requested_by):
        text = "four eyes: the approver is the person who asked; somebody else must approve"
        reasons.append(Reason("four_eyes", text, Course.ASK_AGAIN))
    if not answer.approver.strip():
        reasons.append(Reason("approver", "the answer names no approver", Course.ASK_AGAIN))
    if circumstances.plan.warnings and not answer.acknowledge_warnings:
        text = "the warnings were not acknowledged"
        reasons.append(Reason("warnings", text, Course.ASK_AGAIN))
    if ask.number != circumstances.latest_ask:
        text = f"this answers ask {ask.number}, the latest is {circumstances.latest_ask}"
        reasons.append(Reason("stale_ask", text, Course.STOP))
    return reasons


def _of_signatures(
    ask: Ask, answer: Answer, circumstances: Circumstances, now: datetime
) -> list[Reason]:
    """Anybody may say no; a yes must be signed where the worker or the request says so."""
    if answer.decision == "reject":
        return []
    found = flaws(ask, answer, circumstances.plan, circumstances.signatures, now=now)
    return [Reason("signature", flaw, Course.ASK_AGAIN) for flaw in found]


def _of_time(
    ask: Ask, circumstances: Circumstances, now: datetime, monotonic: float
) -> list[Reason]:
    proof = circumstances.validation
    reasons = []
    if now > ask.expires_at:
        text = f"the ask expired at {ask.expires_at:%Y-%m-%d %H:%M:%S %Z}"
        reasons.append(Reason("expired", text, Course.ASK_AGAIN))
    if not proof.succeeded:
        text = f"Anthropic's validation of {circumstances.plan.key_name} failed: {proof.error}"
        reasons.append(Reason("validation", text, Course.STOP))
    if proof.started_at < circumstances.answer_loaded_at:
        text = "the validation was started before the answer was loaded"
        reasons.append(Reason("validation_order", text, Course.STOP))
    if not 0 <= monotonic - proof.started_at <= FRESHNESS_SECONDS:
        text = f"the validation is older than {FRESHNESS_SECONDS:.0f} s"
        reasons.append(Reason(VALIDATION_AGE, text, Course.ASK_AGAIN))
    return reasons


def _of_plan(ask: Ask, answer: Answer, live: Plan) -> list[Reason]:
    if answer.plan_digest == live.digest:
        return []
    named = differences(ask.plan, live)
    text = "; ".join(str(one) for one in named) or "the answer is for another plan"
    return [Reason("plan", f"not the approved plan: {text}", Course.ASK_AGAIN)]


def _of_facts(circumstances: Circumstances) -> list[Reason]:
    facts, plan = circumstances.facts, circumstances.plan
    found = {
        "request": plan.request != circumstances.pinned and "the request is not the pinned one",
        "archived": facts.workspace_archived and "the workspace is archived",
        "attached": facts.workspace_external_key_id is not None
        and f"the workspace already has the key {facts.workspace_external_key_id}",
        "namesakes": facts.namesakes
        and f"a workspace of this name exists by now: {', '.join(facts.namesakes)}",
        "primary": facts.primary_state != ENABLED
        and f"the primary version of {facts.key.name} is {facts.primary_state}",
        "doomed": facts.doomed_versions
        and "scheduled for destruction: "
        + ", ".join(version.name for version in facts.doomed_versions),
        "label": not facts.has_organization_label
        and f"{facts.key.name} lacks the organization label",
        "grants": not facts.granted_roles.issuperset(ROLES)
        and "missing on the key: " + ", ".join(sorted(set(ROLES) - facts.granted_roles)),
        "key_name": facts.key.name != str(circumstances.pinned.key_name)
        and f"the key is {facts.key.name}, asked for was {circumstances.pinned.key_name}",
        "external_key": facts.external_key_name != facts.key.name
        and f"external key {facts.external_key_id} is of {facts.external_key_name}",
        "checks": circumstances.failed_checks
        and "prerequisites that fail now: " + ", ".join(circumstances.failed_checks),
    }
    return [Reason(code, text, Course.STOP) for code, text in found.items() if text]
