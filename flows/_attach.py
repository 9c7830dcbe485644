"""Guide step 7: ask, look again after the answer, pass the gate, attach or create."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from prefect import get_run_logger
from pydantic import BaseModel

from cmek.anthropic.errors import AdminStatusError
from cmek.evidence.events import answered, weighed
from cmek.evidence.events import asked as asked_event
from cmek.keys.diagnosis import Failure
from cmek.keys.verdicts import CheckReport
from cmek.onboarding.approval import Answer, Ask
from cmek.onboarding.gate import Circumstances, Course, Permit, Refusal, ValidationProof, decide
from cmek.onboarding.plan import LiveFacts, Plan, build_plan
from cmek.onboarding.reports import ask_text, refused_report
from cmek.onboarding.request import OnboardingRequest
from flows._approval import MAX_ASKS, AskLostError, asked_numbers, attempt, new_ask, wait_for_answer
from flows._provision import Ready, UnusableKeyError, explain
from tasks.artifacts import publish
from tasks.attachment import Attached, AttachOutcome, attach, create
from tasks.evidence import publish_evidence
from tasks.evidence import record as note
from tasks.reads import check_prerequisites, read_live_facts
from tasks.runs import recall, remember
from tasks.signatures import signatures_needed, verify_signatures
from tasks.validation import validate

ATTACH_TRIES: Final = 3
ATTACH_PAUSE_SECONDS: Final = 5.0


class RefusedError(Exception):
    """The gate said no for good; nothing was attached."""


class AttachNotConfirmedError(Exception):
    """No try ended with the key on the workspace."""


class RefusalRecord(BaseModel):
    """A refusal, kept so that the same answer is not weighed again when facts flip back."""

    course: Course
    reasons: tuple[str, ...]


class AskRecord(BaseModel):
    """An ask with the checks that its text showed."""

    ask: Ask
    report: CheckReport
    users_before: tuple[str, ...]
    """Of an adopted key: who could use it before this onboarding."""


@dataclass(frozen=True, slots=True)
class Approved:
    """An approval that led to the attach."""

    ask: Ask
    answer: Answer
    signers: tuple[str, ...]
    outcome: AttachOutcome
    report: CheckReport
    facts: LiveFacts
    users_before: tuple[str, ...]

    @property
    def workspace_id(self) -> str:
        """What has the key now."""
        assert self.outcome.workspace_id is not None  # noqa: S101  # it is not NOT_YET
        return self.outcome.workspace_id


@dataclass(frozen=True, slots=True)
class Rejected:
    """A person said no."""

    ask: Ask
    why: str


async def approve_and_attach(
    request: OnboardingRequest, asked: list[int], ready: Ready | None
) -> Approved | Rejected:
    """Ask until an answer leads to a permit, a rejection or a stop.

    Args:
        request: The pinned request.
        asked: Numbers of the asks of this attempt; only the highest counts.
        ready: From `make_ready`; None in an execution that goes on behind an ask.

    Raises:
        RefusedError: These facts must not be attached, or too many asks.
        UnusableKeyError: Anthropic refused the attach because of the key.
        AnswerMissingError, AskLostError: No answer that counts.
    """
    if ready is None:
        record = await _recalled(max(asked))
    else:
        record = await _ask(request, 1, ready, ())
    while True:
        number = record.ask.number
        result = await _weighed(request, record)
        if isinstance(result, Approved):
            return result
        get_run_logger().warning("Ask %d: %s", number, "; ".join(result.reasons))
        if result.course is not Course.ASK_AGAIN or number == MAX_ASKS:
            return await _ended(record, result)
        ready = Ready(record.ask.plan.external_key_id, record.users_before)
        record = await _ask(request, number + 1, ready, result.reasons)


async def _weighed(request: OnboardingRequest, record: AskRecord) -> Approved | RefusalRecord:
    """The answer's outcome; a refusal stays what it was, also when the facts flip back."""
    name = f"refusal-{attempt()}-{record.ask.number}"
    refusal = await recall(name, RefusalRecord)
    if refusal is not None:
        return refusal
    result = await _answered(request, record)
    if isinstance(result, RefusalRecord):
        await remember(name, result)
    return result


async def _ended(record: AskRecord, refusal: RefusalRecord) -> Rejected:
    """Publish that nothing was attached, and why.

    Raises:
        RefusedError: Unless a person said no.
    """
    text = refused_report(record.ask, record.report, refusal.course, refusal.reasons)
    await publish("onboarding", record.ask.plan.request.subject, text, refusal.course)
    why = "; ".join(refusal.reasons)
    if refusal.course is Course.REJECTED:
        return Rejected(record.ask, why)
    raise RefusedError(f"nothing was attached after ask {record.ask.number}: {why}")


async def _recalled(number: int) -> AskRecord:
    record = await recall(f"ask-{attempt()}-{number}", AskRecord)
    if record is None:
        raise AskLostError(
            f"what ask {number} showed is gone with the result storage, so its answer can't count "
            "and nothing was attached. Retry the run to be asked again"
        )
    return record


async def _ask(
    request: OnboardingRequest,
    number: int,
    ready: Ready,
    because: tuple[str, ...],
) -> AskRecord:
    """Read, plan, keep and publish a new ask."""
    facts = await read_live_facts(request, ready.external_key_id)
    # what is checked on a key can only be known once there is one
    checks = await check_prerequisites(request)
    signatures = await signatures_needed(request)
    ask = new_ask(number, plan_of(facts, request, checks), signatures, because)
    record = AskRecord(ask=ask, report=checks, users_before=ready.users_before)
    await remember(f"ask-{attempt()}-{number}", record)
    await note(request.subject, asked_event(ask))
    await publish_evidence(request.subject)
    await publish(
        "onboarding", request.subject, ask_text(ask, checks), f"plan, waiting at {ask.key}"
    )
    return record


def plan_of(facts: LiveFacts, request: OnboardingRequest, report: CheckReport) -> Plan:
    """The plan, with every check that is not a pass as a warning to acknowledge."""
    noted = (*report.warnings, *report.unknown, *report.failed)
    warnings = tuple(f"{check.id} ({check.status})" for check in noted)
    return build_plan(facts, request, project_number=report.project_number, warnings=warnings)


async def _answered(request: OnboardingRequest, record: AskRecord) -> Approved | RefusalRecord:
    """Wait for the answer; then look at everything again, and attach what passes the gate."""
    answer = await wait_for_answer(record.ask, ask_text(record.ask, record.report))
    loaded_at = time.monotonic()
    await note(request.subject, answered(record.ask, answer))
    outcome = AttachOutcome(outcome=Attached.NOT_YET)
    for tried in range(1, ATTACH_TRIES + 1):
        circumstances, report = await _look_again(request, record.ask, answer, loaded_at)
        verdict = decide(
            record.ask, answer, circumstances, now=datetime.now(UTC), monotonic=time.monotonic()
        )
        proof = circumstances.validation
        await note(request.subject, *weighed(record.ask, tried, proof, report, verdict))
        if isinstance(verdict, Refusal):
            if verdict.is_only_late and tried < ATTACH_TRIES:
                continue
            return await _refused(request, record.ask, verdict, circumstances.validation)
        outcome = await _try_attach(request, record.ask, verdict)
        if outcome.outcome is not Attached.NOT_YET:
            return Approved(
                record.ask,
                answer,
                verdict.signers,
                outcome,
                report,
                circumstances.facts,
                record.users_before,
            )
        await asyncio.sleep(ATTACH_PAUSE_SECONDS)
    raise AttachNotConfirmedError(
        f"{ATTACH_TRIES} tries ended without the key on {request.subject} ({outcome.why}); "
        "the workspace was read after each. Retry the run to be asked again"
    )


async def _refused(
    request: OnboardingRequest, ask: Ask, refusal: Refusal, proof: ValidationProof
) -> RefusalRecord:
    """The refusal for keeping; with the cause when the validation is what failed."""
    reasons = [reason.text for reason in refusal.reasons]
    if refusal.course is Course.STOP and not proof.succeeded:
        failure = _failure(ask, request_id=proof.request_id)
        reasons.append(f"most likely: {await explain(request, failure, proof.error)}")
    return RefusalRecord(course=refusal.course, reasons=tuple(reasons))


async def _try_attach(request: OnboardingRequest, ask: Ask, permit: Permit) -> AttachOutcome:
    """Attach or create; a refusal that names the key's validation comes with its cause."""
    step = attach if request.create_workspace is None else create
    try:
        return await step(request.anthropic_block, permit)
    except AdminStatusError as error:
        failure = _failure(ask, request_id=error.request_id, error_code=error.error_code)
        cause = await explain(request, failure, str(error))
        raise UnusableKeyError(f"nothing was attached: {error}. Most likely: {cause}") from error


def _failure(ask: Ask, *, request_id: str | None, error_code: str | None = None) -> Failure:
    # the plan was only shown with both grants in place
    return Failure(
        external_key_id=ask.plan.external_key_id,
        granted_at=ask.asked_at,
        error_code=error_code,
        request_id=request_id,
    )


async def _look_again(
    request: OnboardingRequest, ask: Ask, answer: Answer, loaded_at: float
) -> tuple[Circumstances, CheckReport]:
    """Checks and validation at once, the facts last: they are what the gate compares."""
    external_key_id = ask.plan.external_key_id
    proof, report = await asyncio.gather(
        validate(request.anthropic_block, external_key_id), check_prerequisites(request)
    )
    facts = await read_live_facts(request, external_key_id)
    numbers = await asked_numbers()
    signatures = await verify_signatures(ask, answer)
    circumstances = Circumstances(
        facts=facts,
        plan=plan_of(facts, request, report),
        validation=proof,
        failed_checks=tuple(check.title for check in report.failed),
        answer_loaded_at=loaded_at,
        latest_ask=max(numbers, default=0),
        pinned=request,
        signatures=signatures,
    )
    return circumstances, report
