"""Onboard one workspace: the guide's seven steps, with an approval before the last.

A run suspends at the approval request and is executed again from the top after the response,
perhaps days later in another process. What must not happen twice depends on the numbers of the
approval requests: once there is one, no step that writes runs again, so that a grant that was
removed meanwhile is refused and not silently repaired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Final

from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import deployment
from prefect.states import Completed

from cmek.errors import CmekError
from cmek.evidence.events import attached, checked, software_versions, started
from cmek.evidence.record import Event
from cmek.onboarding.eligibility import AttachmentStatus
from cmek.onboarding.plan import preview, preview_text
from cmek.onboarding.reports import already_attached_report, checks_table, final_report
from cmek.onboarding.request import OnboardingForm, OnboardingRequest, data_residency
from cmek.outcomes import RunOutcome
from flows._approval import approval_request_numbers, attempt
from flows._attach import Approved, Rejected, approve_and_attach
from flows._outcome import Report, reporting
from flows._provision import (
    EligibleWorkspace,
    provision,
    read_and_check_workspace,
    require_prerequisites,
    validate_registered,
)
from flows._workspace_lock import tag_run, workspace_lock
from tasks.artifacts import publish, publish_terraform, record_onboarding
from tasks.attachment import AttachOutcome, AttachResult, ReadBackMismatchError, read_back
from tasks.clients import close_clients, opening_clients
from tasks.crypto_key import ensure_organization_label
from tasks.evidence import (
    grants_event,
    label_attached_resources,
    label_event,
    may_have_attached,
    publish_evidence,
    publish_failure,
    record,
)
from tasks.grants import ensure_grants
from tasks.leftovers import publish_leftovers
from tasks.reads import (
    check_prerequisites,
    read_existing_resources,
    read_live_facts,
    resolve_request,
    signatures_needed,
)
from tasks.runs import pin_request

_RETRY: Final = "Retry the run: it reads everything again, attaches nothing, and publishes evidence"


class NoDeploymentError(CmekError):
    """The flow was called without a deployment, so it could not wait for an approval."""


class ParametersChangedError(CmekError):
    """The run's parameters are no longer those that it started with."""


@flow(
    name="onboard-workspace",
    flow_run_name="onboard {request.subject}",
    persist_result=False,
    retries=0,
)
async def onboard_workspace(request: OnboardingForm) -> State[Any]:
    """Put a Google Cloud KMS key under an Anthropic workspace, or under a new one.

    Checks first, makes what is missing (key ring, key, grants, external key), validates, then
    waits for an approval: attaching a key can never be undone. Approve or reject under "Resume" of
    the waiting run, or with `cmek approve`.

    Args:
        request: Workspace, project and requester are enough; a policy decides everything else.

    Raises:
        NoDeploymentError: Called without a deployment; nothing was read or made.
        BlockMissingError: The policy can't be read; nothing outside was read or made.
        OverrideRefusedError: The policy does not let a request change one of its settings.
        ParametersChangedError: The run's parameters were changed; nothing was attached.
        Exception: Any refusal, each with a message that says what to do.
    """
    if deployment.id is None:
        raise NoDeploymentError(
            "onboard_workspace waits for an approval, so it needs a deployment: run `cmek deploy` "
            "and start onboard-workspace/onboard"
        )
    try:
        return await _onboard_as_pinned(request)
    finally:
        await close_clients()


async def _onboard_as_pinned(request: OnboardingForm) -> State[Any]:
    numbers = await approval_request_numbers()
    pinned = await pin_request(request, resolve_request, asked=bool(numbers))
    # whoever may write to Prefect's API can change the parameters of a waiting run
    if pinned.form != request:
        raise ParametersChangedError(
            "the parameters of this run were changed after it had started; nothing was attached. "
            "Start a new run for another request"
        )
    if pinned.plan_only:  # writes nothing, so it needs no lock
        await tag_run(request.subject)
        lock: AbstractAsyncContextManager[FlowRun | None] = nullcontext()
    else:
        lock = workspace_lock(request.subject, claimed=bool(numbers))
    async with opening_clients(pinned.anthropic_block, pinned.kms_block), lock as other:
        if other is not None:
            return Completed(
                name=RunOutcome.DUPLICATE,
                message=f"run {other.name} ({other.id}) has {request.subject} already",
            )
        try:
            return await _onboard(pinned, numbers)
        except Exception as error:  # not a suspension: Prefect's Pause is a BaseException
            await publish_failure(request.subject, error)
            await publish_leftovers(pinned.anthropic_block, pinned.kms_block, pinned.subject)
            raise


async def _onboard(request: OnboardingRequest, numbers: list[int]) -> State[Any]:
    provisioned = None
    if not numbers:
        eligible = await read_and_check_workspace(request)
        if eligible.status is AttachmentStatus.HAS_OUR_KEY:
            return await _verify_existing_attachment(request, eligible)
        if request.plan_only:
            return await _preview(request, eligible)
        await signatures_needed(request)  # fails before anything is made that nobody can approve
        report = await require_prerequisites(request)
        await record(
            request.subject,
            started(request, software_versions()),
            checked(report, f"attempt {attempt()}"),
        )
        provisioned = await provision(request, eligible.organization_id)
    result = await approve_and_attach(request, numbers, provisioned)
    if isinstance(result, Rejected):
        await publish_leftovers(request.anthropic_block, request.kms_block, request.subject)
        return Completed(name=RunOutcome.REJECTED, message=result.why)
    return await _report_attached(request, result)


async def _preview(request: OnboardingRequest, eligible: EligibleWorkspace) -> State[Any]:
    """Check the prerequisites and make a dry plan, without one write."""
    report = await check_prerequisites(request)
    existing = await read_existing_resources(request, eligible.organization_id)
    steps = preview(request, existing)
    writes = [step.title for step in steps if step.action != "nothing"]
    planned = "would do: " + (", ".join(writes) or "nothing")
    page = f"# Dry plan\n\n{preview_text(steps)}\n\n## Prerequisites\n\n{checks_table(report)}"
    about = "dry plan, nothing was written"
    async with reporting(planned) as publishing:
        await publishing.part("dry plan", publish("plan", request.subject, page, about))
    name = RunOutcome.PREREQUISITES_FAIL if report.failed else RunOutcome.PLANNED
    return Completed(name=name, message=planned)


async def _report_attached(request: OnboardingRequest, approved: Approved) -> State[Any]:
    """Read back, and publish what happened."""
    plan, outcome = approved.approval_request.plan, approved.outcome
    by_id = request.for_existing(approved.workspace_id)
    created = "" if plan.workspace_id else f" ({plan.workspace_name}), created with it"
    key = f"{plan.external_key_id} ({plan.key_name})"
    # the outcome first: a notification shows only the beginning
    final = f"a key is attached to {approved.workspace_id}{created}, which is final: {key}"
    async with reporting(final, _RETRY, denial=ReadBackMismatchError) as report:
        await _publish_attached(request, by_id, approved, report)
    return Completed(
        name=RunOutcome.ATTACHED,
        message=f"{key} {outcome.outcome} to {approved.workspace_id}{created}, approved by "
        + (", ".join(approved.signers) or f"{approved.response.approver} (unverified)"),
    )


async def _publish_attached(
    request: OnboardingRequest, by_id: OnboardingRequest, approved: Approved, report: Report
) -> None:
    plan, outcome = approved.approval_request.plan, approved.outcome
    shown = await read_back(
        request.anthropic_block, approved.workspace_id, plan.external_key_id, _residency(request)
    )
    (entry,) = await record(by_id.subject, attached(by_id.subject, outcome, shown))
    text = final_report(
        approved.approval_request,
        approved.response,
        approved.signers,
        approved.report,
        (
            ("outcome", outcome.outcome),
            ("workspace", f"{shown.workspace_id} ({shown.workspace_name})"),
            ("request id", outcome.request_id or "none"),
            ("workspace shows", shown.external_key_id),
            ("external key shows", shown.key_name or "none"),
            ("evidence", entry.hash),
            ("read back by", ", ".join(str(one) for one in shown.request_ids)),
        ),
        workspace_id=approved.workspace_id,
    )
    facts = approved.facts.model_copy(update={"workspace_id": approved.workspace_id})

    async def mark_and_read_again() -> None:
        if outcome.outcome is AttachResult.NOW:
            marking = label_attached_resources(by_id, plan.key_name, entry, label=request.mark_key)
            await report.part("marks of workspace and key", marking)
        # only now: evidence and Terraform include what the marking wrote
        await asyncio.gather(
            _publish_evidence(report, request, by_id),
            report.part("Terraform", publish_terraform(by_id)),
        )

    await asyncio.gather(
        _publish(report, request, by_id, text, "attached"),
        report.part(
            "history of the key",
            record_onboarding(facts, approved.users_before, plan.other_decrypters),
        ),
        mark_and_read_again(),
    )


async def _verify_existing_attachment(
    request: OnboardingRequest, eligible: EligibleWorkspace
) -> State[Any]:
    """The workspace has this key: read, validate and report; repair only when requested."""
    by_id, key = eligible.request, eligible.current_key
    assert key is not None  # noqa: S101  # HAS_OUR_KEY means that there is one
    interrupted, repaired = await may_have_attached(), False
    with _already_attached(by_id.subject, key.id):
        if interrupted:  # an earlier attempt attached the key, and ended before it recorded that
            shown = await read_back(
                by_id.anthropic_block, by_id.subject, key.id, _residency(request)
            )
            outcome = AttachOutcome(outcome=AttachResult.BEFORE, workspace_id=by_id.workspace_id)
            # before the reads below: they fail where the key was destroyed meanwhile
            (entry,) = await record(by_id.subject, attached(by_id.subject, outcome, shown))
        if by_id.repair and not by_id.plan_only:
            crypto_key, labelled = await ensure_organization_label(by_id, eligible.organization_id)
            await _record_repair(by_id, label_event(crypto_key, written=labelled))
            granted = await ensure_grants(by_id.kms_block, crypto_key.name)
            await _record_repair(by_id, grants_event(crypto_key.name, written=granted))
            repaired = labelled or granted
        facts = await read_live_facts(by_id, key.id)
        checks = await check_prerequisites(by_id, started_with=request)
        await validate_registered(by_id, key.id, changed_at=datetime.now(UTC) if repaired else None)
    text = already_attached_report(facts, checks, repaired=repaired)
    found = f"{by_id.subject} has {key.id} ({facts.key.name}); it validates, " + (
        "and was repaired"
        if repaired
        else "and this run has attached it"
        if interrupted
        else "and nothing was written"
    )
    async with reporting(found, _RETRY) as report:
        if interrupted:
            marking = label_attached_resources(by_id, facts.key.name, entry, label=request.mark_key)
            await report.part("marks of workspace and key", marking)
        if repaired or interrupted:
            await _publish_evidence(report, request, by_id)
        await _publish(report, request, by_id, text, "already attached")
    return Completed(name=RunOutcome.ALREADY_ATTACHED, message=found)


class AttachedKeyError(CmekError):
    """The workspace has the key; reading, repairing or validating it failed."""


@contextmanager
def _already_attached(workspace_id: str, external_key_id: str) -> Iterator[None]:
    """Make every failure begin with what is attached.

    Raises:
        AttachedKeyError: In place of any other error.
    """
    try:
        yield
    except Exception as error:
        why = str(error) or type(error).__name__
        raise AttachedKeyError(
            f"{workspace_id} has {external_key_id}, which is final. {why}"
        ) from error


async def _record_repair(by_id: OnboardingRequest, written: tuple[Event, ...]) -> None:
    if written:
        await record(by_id.subject, started(by_id, software_versions()), *written)


def _residency(request: OnboardingRequest) -> dict[str, object] | None:
    return data_residency(request.data_residency) if request.create_workspace else None


async def _publish(
    report: Report, request: OnboardingRequest, by_id: OnboardingRequest, text: str, how: str
) -> None:
    """Publish the report under the workspace's id, and under the name of a created one."""
    for subject in dict.fromkeys((request.subject, by_id.subject)):
        await report.part(f"report of {subject}", publish("onboarding", subject, text, how))


async def _publish_evidence(
    report: Report, request: OnboardingRequest, by_id: OnboardingRequest
) -> None:
    """Publish the record under the workspace's id, and under the name of a created one."""
    if request.subject != by_id.subject:
        await report.part(f"tag {by_id.subject} of this run", tag_run(by_id.subject))
    for subject in dict.fromkeys((request.subject, by_id.subject)):
        await report.part(f"evidence of {subject}", publish_evidence(subject))
