"""Guide step 7: request an approval, read everything again after it, pass the gate, attach."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

from prefect import get_run_logger
from pydantic import BaseModel

from cmek.anthropic.errors import (
    AdminStatusError,
    ExternalKeyValidationFailedError,
    ExternalKeyValidationTimeoutError,
    GatewayRefusedError,
    KeyProfileMismatchError,
    WorkspacePolicyViolationError,
)
from cmek.errors import CmekError
from cmek.evidence import events
from cmek.keys.diagnosis import Failure
from cmek.keys.verdicts import CheckReport
from cmek.onboarding.approval_page import approval_page
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse
from cmek.onboarding.gate import (
    STEADY,
    GateInput,
    Permit,
    Refusal,
    RefusalKind,
    ValidationProof,
    adoption_refusal,
    decide,
    verified_by,
)
from cmek.onboarding.plan import LiveFacts, build_plan
from cmek.onboarding.reports import refused_report
from cmek.onboarding.request import OnboardingRequest
from flows._approval import (
    MAX_APPROVAL_REQUESTS,
    ApprovalRequestLostError,
    approval_request_numbers,
    attempt,
    new_approval_request,
    wait_for_response,
)
from flows._outcome import reporting
from flows._provision import KeyValidationError, ProvisionedKey, adopt, diagnose_failure
from tasks.artifacts import publish
from tasks.attachment import (
    AttachedElsewhereError,
    AttachOutcome,
    AttachOutcomeUnknownError,
    AttachResult,
    CreateOutcomeUnknownError,
    IncompleteWorkspaceError,
    attach,
    create,
)
from tasks.evidence import may_have_attached, publish_evidence, record, tries_so_far
from tasks.reads import (
    check_prerequisites,
    read_live_facts,
    read_workspace,
    search_workspace,
    signatures_needed,
    verify_signatures,
)
from tasks.runs import load_state, never_ends_the_run, save_state
from tasks.validation import validate

R = TypeVar("R")

ATTACH_TRIES: Final = 3
ATTACH_PAUSE_SECONDS: Final = 5.0


NOTHING_ATTACHED: Final = "nothing was attached"


class RefusedError(CmekError):
    """The gate or the service refused; the message says what is, or may still be, attached."""


class AttachNotConfirmedError(CmekError):
    """No read has shown the key on the workspace, after all tries or after a failure in one."""


class RefusalRecord(BaseModel):
    """A refusal, stored so that the same response is not judged again if the facts change back."""

    kind: RefusalKind
    reasons: tuple[str, ...]
    happened: str = NOTHING_ATTACHED
    """What is attached, or may still be, although this run attaches nothing."""
    sent_at: datetime | None = None
    """When an attach was sent that may still take effect."""


class ApprovalRequestRecord(BaseModel):
    """An approval request with the checks that its text showed."""

    approval_request: ApprovalRequest
    report: CheckReport
    users_before: tuple[str, ...]
    """Who could use an adopted key before this onboarding."""
    sent_at: datetime | None = None
    """When an attach was sent, after an earlier approval request, that may still take effect."""


@dataclass(frozen=True, slots=True)
class Approved:
    """An approval that led to the attach."""

    approval_request: ApprovalRequest
    response: ApprovalResponse
    signers: tuple[str, ...]
    outcome: AttachOutcome
    report: CheckReport
    facts: LiveFacts
    users_before: tuple[str, ...]

    @property
    def workspace_id(self) -> str:
        """The workspace that has the key now."""
        assert self.outcome.workspace_id is not None  # noqa: S101  # it is not NOT_YET
        return self.outcome.workspace_id


@dataclass(frozen=True, slots=True)
class Rejected:
    """The approver rejected."""

    why: str


async def approve_and_attach(
    request: OnboardingRequest, numbers: list[int], provisioned: ProvisionedKey | None
) -> Approved | Rejected:
    """Request approvals until a response leads to a permit, a rejection or a stop.

    Args:
        request: The pinned request.
        numbers: Numbers of this attempt's approval requests so far; only the highest is open.
        provisioned: From `provision`; None in an execution that continues after a suspension.

    Raises:
        RefusedError: The facts forbid the attach, or there were too many approval requests.
        KeyValidationError: Anthropic refused the attach because of the key.
        ResponseMissingError, ApprovalRequestLostError: There is no valid response.
    """
    if provisioned is None:
        # never an older one: its plan could become true again when facts change back
        pending = await _load_request(max(numbers))
    else:
        pending = await _request_approval(request, 1, provisioned, ())
    while True:
        number = pending.approval_request.number
        result = await _decided(request, pending)
        if isinstance(result, Approved):
            return result
        get_run_logger().warning("Approval request %d: %s", number, "; ".join(result.reasons))
        if result.kind is not RefusalKind.REAPPROVAL_REQUIRED or number == MAX_APPROVAL_REQUESTS:
            return await _finish(pending, result)
        plan = pending.approval_request.plan
        key = ProvisionedKey(plan.external_key_id, pending.users_before, plan.adopts_key)
        reasons = result.reasons
        if result.sent_at is not None:  # first, so that whoever reads one line reads this
            reasons = (result.happened, *reasons)
        with _never_hidden(result.sent_at):
            pending = await _request_approval(request, number + 1, key, reasons, result.sent_at)


async def _decided(
    request: OnboardingRequest, pending: ApprovalRequestRecord
) -> Approved | RefusalRecord:
    """Decide about the response once: a stored refusal stays, even if the facts change back."""
    name = f"refusal-{attempt()}-{pending.approval_request.number}"
    refusal = await load_state(name, RefusalRecord)
    if refusal is not None:
        return refusal
    result = await _handle_response(request, pending)
    # a permit is never stored: it is for this process and for one minute
    if isinstance(result, RefusalRecord):
        await save_state(name, result)
    return result


async def _finish(pending: ApprovalRequestRecord, refusal: RefusalRecord) -> Rejected:
    """Publish that nothing was attached, and why.

    Raises:
        RefusedError: Unless the approver rejected.
        ReportUnfinishedError: A part of the report could not be published.
    """
    approval_request, why = pending.approval_request, "; ".join(refusal.reasons)
    headline = f"{refusal.kind}: {refusal.happened}"
    text = refused_report(approval_request, pending.report, headline, refusal.reasons)
    subject = approval_request.plan.request.subject
    said = f"{refusal.happened} after approval request {approval_request.number}: {why}"
    async with reporting(said) as report:
        await report.part("report", publish("onboarding", subject, text, refusal.kind))
        if refusal.kind is RefusalKind.REJECTED:
            await report.part("evidence", publish_evidence(subject))
    if refusal.kind is RefusalKind.REJECTED:
        return Rejected(why)
    raise RefusedError(said)


async def _load_request(number: int) -> ApprovalRequestRecord:
    pending = await load_state(f"approval-request-{attempt()}-{number}", ApprovalRequestRecord)
    if pending is None:
        raise ApprovalRequestLostError(
            f"what approval request {number} showed is gone from the worker's records, so its "
            "response can't count and nothing was attached. Retry the run for a new approval "
            "request"
        )
    return pending


async def _request_approval(
    request: OnboardingRequest,
    number: int,
    provisioned: ProvisionedKey,
    reapproval_reasons: tuple[str, ...],
    sent_at: datetime | None = None,
) -> ApprovalRequestRecord:
    """Make a new approval request from live reads, store it and publish it."""
    # some checks need an existing key, so all are made again now that it exists
    read = await asyncio.gather(
        read_live_facts(request, provisioned.external_key_id),
        check_prerequisites(request),
        signatures_needed(request),
        return_exceptions=True,
    )
    facts, report, signatures = _value(read[0]), _value(read[1]), _value(read[2])
    plan = build_plan(facts, request, report, adopting=provisioned.adopting)
    approval_request = new_approval_request(number, plan, signatures, reapproval_reasons)
    pending = ApprovalRequestRecord(
        approval_request=approval_request,
        report=report,
        users_before=provisioned.users_before,
        sent_at=sent_at,
    )
    # stored before the run suspends: another process loads it after the response
    await save_state(f"approval-request-{attempt()}-{number}", pending)
    await record(request.subject, events.approval_requested(approval_request))
    page = approval_page(approval_request)
    said = f"{_happened(False, sent_at)}, and approval request {number} was not made"
    async with reporting(said, "Retry the run for a new one") as publishing:
        await asyncio.gather(
            publishing.part("evidence", publish_evidence(request.subject)),
            publishing.part("report", publish("onboarding", request.subject, page, "")),
        )
    return pending


async def _handle_response(
    request: OnboardingRequest, pending: ApprovalRequestRecord
) -> Approved | RefusalRecord:
    """Wait for the response; then read everything again, and attach if the gate permits it."""
    approval_request = pending.approval_request
    response = await wait_for_response(approval_request, approval_page(approval_request))
    # the gate accepts only a validation that was started after this moment
    loaded_at = time.clock_gettime(STEADY)
    await record(request.subject, events.approval_response_received(approval_request, response))
    if response.decision == "reject":
        return await _rejected(request, pending, response)
    if approval_request.plan.adopts_key:
        refused = await _adopt(request, pending, response)
        if refused is not None:
            return refused
    return await _attach_in_tries(request, pending, response, loaded_at)


async def _rejected(
    request: OnboardingRequest, pending: ApprovalRequestRecord, response: ApprovalResponse
) -> RefusalRecord:
    """A rejection counts whatever can be read: what can't be may be why somebody rejects."""
    happened = _happened(False, pending.sent_at)
    with never_ends_the_run("Whether the workspace has this key already is not known"):
        if request.workspace_id is not None:
            # the workspace only: the key may be what can't be read
            found = await read_workspace(request.anthropic_block, request.workspace_id)
            has_key = found.workspace.external_key_id
            is_ours = has_key == pending.approval_request.plan.external_key_id
            happened = _happened(is_ours, pending.sent_at)
    return RefusalRecord(
        kind=RefusalKind.REJECTED,
        reasons=(f"rejected: {response.comment}",),
        happened=happened,
    )


async def _attach_in_tries(
    request: OnboardingRequest,
    pending: ApprovalRequestRecord,
    response: ApprovalResponse,
    loaded_at: float,
) -> Approved | RefusalRecord:
    """Attach in a few tries; each reads and validates again, and needs a new permit (60 s)."""
    asked, outcome = pending.approval_request, AttachOutcome(outcome=AttachResult.NOT_YET)
    sent_at, before = pending.sent_at, await tries_so_far(asked.key)
    for tried in range(1, ATTACH_TRIES + 1):
        stage = f"{asked.key} try {before + tried}"
        with _never_hidden(sent_at):
            gate_input, report = await _read_again(request, pending, response, loaded_at)
            facts, signers = gate_input.facts, verified_by(gate_input)
            workspace_id = await _attached_earlier(request, facts)
            if workspace_id is not None:
                outcome = AttachOutcome(outcome=AttachResult.NOW, workspace_id=workspace_id)
                break
            verdict = decide(
                asked,
                response,
                gate_input,
                now=datetime.now(UTC),
                monotonic=time.clock_gettime(STEADY),
            )
            proof = gate_input.validation
            entry = events.gate_decision(asked, stage, proof, report, verdict)
            # recorded first: there is no attach without its gate decision in the evidence
            await record(request.subject, *entry)
            if isinstance(verdict, Refusal):
                # only the reads were slow: no reason to ask a person again
                if verdict.is_stale_validation_only and tried < ATTACH_TRIES:
                    continue
                return await _refused(request, pending, verdict, gate_input, sent_at)
            async with _recorded_if_unused(request.subject, stage):
                outcome = await _try_attach(request, asked, verdict)
        if outcome.outcome is AttachResult.NOT_YET and outcome.sent_at is None:
            await record(request.subject, events.permit_unused(stage, outcome.why or ""))
        if outcome.outcome is not AttachResult.NOT_YET:
            break
        # kept from earlier tries: their requests may still take effect
        sent_at = outcome.sent_at or sent_at
        await asyncio.sleep(ATTACH_PAUSE_SECONDS)
    else:
        may = f"; {_may_still(sent_at)}" if sent_at else ""
        raise AttachNotConfirmedError(
            f"{ATTACH_TRIES} tries ended without the key on {request.subject} ({outcome.why}); "
            f"the workspace was read after each{may}. Retry the run for a new approval request"
        )
    if sent_at is not None:  # found attached, but by the request that this run sent
        outcome = outcome.model_copy(update={"outcome": AttachResult.NOW})
    return Approved(asked, response, signers, outcome, report, facts, pending.users_before)


async def _attached_earlier(request: OnboardingRequest, facts: LiveFacts) -> str | None:
    """The workspace that has the key by an attach of this run, if its reads show one.

    An attach may take effect after its try. Whoever suspends and resumes the run meanwhile makes
    it begin again here.
    """
    if not await may_have_attached():
        return None
    if facts.has_key_already:
        return facts.workspace_id
    found = await search_workspace(request) if request.create_workspace is not None else None
    made = found.workspace if found is not None else None
    return made.id if made and made.external_key_id == facts.external_key_id else None


@asynccontextmanager
async def _recorded_if_unused(subject: str, stage: str) -> AsyncIterator[None]:
    """Record a failure after which certainly nothing was attached by this permit."""
    try:
        yield
    except (AttachOutcomeUnknownError, CreateOutcomeUnknownError, IncompleteWorkspaceError):
        raise
    except CmekError as error:
        await record(subject, events.permit_unused(stage, str(error)))
        raise


@contextmanager
def _never_hidden(sent_at: datetime | None) -> Iterator[None]:
    """Make a failure after an attach of unknown outcome say that one was sent.

    Raises:
        AttachNotConfirmedError: Something failed, and an attach may still take effect.
    """
    try:
        yield
    except AttachedElsewhereError:
        raise  # another key is attached, so ours can't take effect any more
    except Exception as error:  # not only ours: Prefect's server may not answer either
        if sent_at is None:
            raise
        raise AttachNotConfirmedError(
            f"{_may_still(sent_at)}; Retry the run, which reads the workspace first. Another try "
            f"failed: {str(error) or type(error).__name__}"
        ) from error


def _may_still(sent_at: datetime) -> str:
    return f"the attach that was sent at {sent_at:%Y-%m-%d %H:%M:%S} UTC may still take effect"


async def _refused(
    request: OnboardingRequest,
    pending: ApprovalRequestRecord,
    refusal: Refusal,
    gate_input: GateInput,
    sent_at: datetime | None,
) -> RefusalRecord:
    """The refusal as a record; with the most likely cause when the validation failed."""
    reasons, proof = [reason.text for reason in refusal.reasons], gate_input.validation
    if refusal.kind is RefusalKind.BLOCKED and not proof.succeeded:
        failure = _failed_validation(pending.approval_request, request_id=proof.request_id)
        reasons.append(f"most likely: {await diagnose_failure(request, failure, proof.error)}")
    happened = _happened(gate_input.facts.has_key_already, sent_at)
    return RefusalRecord(
        kind=refusal.kind, reasons=tuple(reasons), happened=happened, sent_at=sent_at
    )


def _happened(has_key: bool, sent_at: datetime | None) -> str:
    """What is attached, or may still be, when this run attaches nothing."""
    if has_key and sent_at is not None:
        return (
            f"the key is attached by what this run sent at {sent_at:%Y-%m-%d %H:%M:%S} UTC, which "
            "is final (Retry reports it)"
        )
    if has_key:
        return "the workspace has this key already (Retry checks it), and nothing was attached"
    if sent_at is not None:
        return f"{_may_still(sent_at)} (Retry reads the workspace first), nothing was attached"
    return NOTHING_ATTACHED


_ABOUT_THE_KEY: Final = (
    ExternalKeyValidationFailedError,
    ExternalKeyValidationTimeoutError,
    WorkspacePolicyViolationError,
    KeyProfileMismatchError,
)
"""Refusals whose cause a diagnosis can find; of any other, Anthropic's own words say the cause."""


async def _try_attach(
    request: OnboardingRequest, approval_request: ApprovalRequest, permit: Permit
) -> AttachOutcome:
    """Attach or create; a refusal that can be about the key is diagnosed."""
    step = attach if request.create_workspace is None else create
    try:
        return await step(request.anthropic_block, permit)
    except GatewayRefusedError as error:
        raise RefusedError(f"the gateway attached nothing: {error}") from error
    except AdminStatusError as error:
        if not isinstance(error, _ABOUT_THE_KEY):
            raise RefusedError(f"{NOTHING_ATTACHED}: {error}") from error
        failure = _failed_validation(
            approval_request, request_id=error.request_id, error_code=error.error_code
        )
        cause = await diagnose_failure(request, failure, str(error))
        raise KeyValidationError(f"{NOTHING_ATTACHED}: {error}. Most likely: {cause}") from error


def _failed_validation(
    approval_request: ApprovalRequest, *, request_id: str | None, error_code: str | None = None
) -> Failure:
    plan = approval_request.plan
    return Failure(
        external_key_id=plan.external_key_id,
        # an adopted key got its grants in this execution; any other had them when the plan was made
        granted_at=datetime.now(UTC) if plan.adopts_key else approval_request.requested_at,
        error_code=error_code,
        request_id=request_id,
    )


async def _read_again(
    request: OnboardingRequest,
    pending: ApprovalRequestRecord,
    response: ApprovalResponse,
    loaded_at: float,
) -> tuple[GateInput, CheckReport]:
    """Check and validate at the same time, then read the facts: the gate compares these."""
    external_key_id = pending.approval_request.plan.external_key_id
    read = await asyncio.gather(
        validate(request.anthropic_block, external_key_id),
        check_prerequisites(request),
        return_exceptions=True,
    )
    proof, report = _value(read[0]), _value(read[1])
    gate_input = await _gate_input(request, pending, response, proof, report, loaded_at=loaded_at)
    return gate_input, report


async def _gate_input(  # noqa: PLR0913 - what the gate judges, as it was read
    request: OnboardingRequest,
    pending: ApprovalRequestRecord,
    response: ApprovalResponse,
    proof: ValidationProof,
    report: CheckReport,
    *,
    loaded_at: float,
) -> GateInput:
    approved = pending.approval_request.plan
    read = await asyncio.gather(
        read_live_facts(request, approved.external_key_id),
        approval_request_numbers(),
        verify_signatures(request, pending.approval_request, response),
        return_exceptions=True,
    )
    facts, numbers, signatures = _value(read[0]), _value(read[1]), _value(read[2])
    return GateInput(
        facts=facts,
        plan=build_plan(facts, request, report, adopting=approved.adopts_key),
        validation=proof,
        failed_checks=tuple(check.title for check in report.failed),
        response_loaded_at=loaded_at,
        latest_request_number=max(numbers, default=0),
        pinned=request,
        signatures=signatures,
    )


def _value(read: R | BaseException) -> R:
    """The result of one of several concurrent reads; its error is raised after all have ended."""
    if isinstance(read, BaseException):
        raise read
    return read


async def _adopt(
    request: OnboardingRequest, pending: ApprovalRequestRecord, response: ApprovalResponse
) -> RefusalRecord | None:
    """Add label and grants to an existing key, if the response permits it; else the refusal.

    Raises:
        KeyValidationError: Anthropic can't use the key with them; nothing was attached.
    """
    # no validation yet: it can't succeed before label and grants are on the key
    none_yet = ValidationProof(succeeded=False, started_at=0.0, error=None, request_id=None)
    report = await check_prerequisites(request)
    gate_input = await _gate_input(request, pending, response, none_yet, report, loaded_at=0.0)
    refusal = adoption_refusal(
        pending.approval_request, response, gate_input, now=datetime.now(UTC)
    )
    if refusal is not None:
        reasons = tuple(reason.text for reason in refusal.reasons)
        happened = _happened(gate_input.facts.has_key_already, pending.sent_at)
        return RefusalRecord(
            kind=refusal.kind, reasons=reasons, happened=happened, sent_at=pending.sent_at
        )
    await adopt(
        request,
        gate_input.facts.organization_id,
        pending.approval_request.plan.external_key_id,
        pending.users_before,
    )
    return None
