"""Onboard one workspace: the guide's seven steps, with a person before the last.

A run suspends at the ask and is executed again from the top when it is answered, maybe days later
in another process. What must not happen twice is behind `asked_numbers`: once an ask exists, no
step that writes runs again, so that a stripped grant is refused and not silently repaired.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment
from prefect.states import Completed

from cmek.admission import Standing
from cmek.checks.markdown import checks_table
from cmek.dry_plan import dry_plan, dry_plan_text
from cmek.evidence.events import attached, checked, started
from cmek.evidence.versions import software_versions
from cmek.report import final_report, standing_report
from cmek.request import OnboardingRequest
from flows.alone import working_alone
from flows.approval import asked_numbers, attempt
from flows.gatekeeping import Approved, Rejected, approve_and_attach
from flows.making_ready import (
    Admission,
    admit_workspace,
    check_first,
    make_ready,
    validate_registered,
)
from tasks.attachment import Attached, AttachOutcome, read_back
from tasks.clients import close_clients
from tasks.crypto_key import ensure_crypto_key
from tasks.dry_plan import read_standings
from tasks.evidence import has_recorded, publish_evidence, publish_failure, record
from tasks.grants import ensure_grants
from tasks.health import record_onboarding
from tasks.live_facts import read_live_facts
from tasks.marks import leave_marks
from tasks.pin import pin_request
from tasks.prerequisites import check_prerequisites
from tasks.reports import publish
from tasks.signatures import signatures_needed
from tasks.terraform import publish_terraform
from tasks.written import grants_written, key_written


class NoDeploymentError(Exception):
    """The flow was called without a deployment, so it could not wait for an approval."""


class ParametersChangedError(Exception):
    """The run's parameters are no longer those that it started with."""


@flow(
    name="onboard-workspace",
    flow_run_name="onboard {request.workspace_id}",
    persist_result=True,
    result_serializer="json",
    retries=0,
)
async def onboard_workspace(request: OnboardingRequest) -> State[Any]:
    """Put a Google Cloud KMS key under an Anthropic workspace.

    Checks first, makes what is missing (key ring, key, grants, external key), validates, then
    waits for a person: attaching a key can never be undone. Answer under "Resume" of the waiting
    run, or with `cmek approve`.

    Args:
        request: The first three fields are enough; the others have the recommended values.

    Raises:
        NoDeploymentError: Called without a deployment; nothing was read or made.
        ParametersChangedError: Somebody changed the run's parameters; nothing was attached.
        Exception: Any refusal, each with a message that says what to do.
    """
    if deployment.id is None:
        raise NoDeploymentError(
            "onboard_workspace waits for an approval, so it needs a deployment: run `prefect "
            "deploy --all` and start onboard-workspace/onboard"
        )
    pinned = await pin_request(request)
    if pinned != request:
        raise ParametersChangedError(
            "the parameters of this run were changed after it had started; nothing was attached. "
            "Start a new run for another request"
        )
    asked = await asked_numbers()
    async with working_alone(request.workspace_id, claimed=bool(asked)) as other:
        if other is not None:
            return Completed(
                name="Duplicate",
                message=f"run {other.name} ({other.id}) has {request.workspace_id} already",
            )
        try:
            return await _onboard(pinned, asked)
        except Exception as error:
            await publish_failure(request.workspace_id, error)
            raise
        finally:
            await close_clients()


async def _onboard(request: OnboardingRequest, asked: list[int]) -> State[Any]:
    ready = None
    if not asked:
        admission = await admit_workspace(request)
        if admission.standing is Standing.HAS_OUR_KEY:
            return await _verify(request, admission)
        if request.plan_only:
            return await _plan_only(request, admission)
        await signatures_needed(request)  # before anything is made that could not be approved
        report = await check_first(request)
        await record(
            request.workspace_id,
            started(request, software_versions()),
            checked(report, f"attempt {attempt()}"),
        )
        ready = await make_ready(request, admission.organization_id)
    result = await approve_and_attach(request, asked, ready)
    if isinstance(result, Rejected):
        await publish_evidence(request.workspace_id)
        return Completed(name="Rejected", message=result.why)
    return await _report(request, result)


async def _report(request: OnboardingRequest, done: Approved) -> State[Any]:
    """Read back, and publish what happened."""
    plan = done.ask.plan
    seen = await read_back(request.anthropic_block, plan.workspace_id, plan.external_key_id)
    (entry,) = await record(plan.workspace_id, attached(plan.workspace_id, done.outcome, seen))
    text = final_report(
        done.ask,
        done.answer,
        done.signers,
        done.report,
        (
            ("outcome", done.outcome.outcome),
            ("request id", done.outcome.request_id or "none"),
            ("workspace shows", seen.external_key_id),
            ("external key shows", seen.key_name or "none"),
            ("evidence", entry.hash),
            ("read back by", ", ".join(str(one) for one in seen.request_ids)),
        ),
    )
    await publish("onboarding", request.workspace_id, text, "attached")
    if done.outcome.outcome is Attached.NOW:
        await leave_marks(request, plan.key_name, entry, label=request.mark_key)
    await publish_evidence(request.workspace_id)
    await record_onboarding(done.facts, done.users_before)
    await publish_terraform(request)
    return Completed(
        name="Attached",
        message=f"{plan.external_key_id} ({plan.key_name}) {done.outcome.outcome} to "
        f"{plan.workspace_id}, approved by "
        + (", ".join(done.signers) or f"{done.answer.approver} (a claim)"),
    )


async def _verify(request: OnboardingRequest, admission: Admission) -> State[Any]:
    """The workspace has this key: read, validate and report; repair only when asked."""
    key = admission.reading.current_key
    assert key is not None  # noqa: S101  # HAS_OUR_KEY means that there is one
    interrupted, repaired = await has_recorded(), False
    if request.repair:
        adopting = request.model_copy(update={"adopt_existing_key": True})
        ensured = await ensure_crypto_key(adopting, admission.organization_id, ring_is_new=False)
        grants = await ensure_grants(request.kms_block, ensured.key.name)
        repaired = ensured.label_added or grants.written
        written = (*key_written(ensured), *grants_written(ensured.key.name, grants))
        if repaired:
            await record(request.workspace_id, started(request, software_versions()), *written)
            await publish_evidence(request.workspace_id)
    facts = await read_live_facts(request, key.id)
    report = await check_prerequisites(request)
    await validate_registered(request, key.id, changed_at=datetime.now(UTC) if repaired else None)
    if interrupted:  # an earlier attempt of this run attached it, and ended before it could say so
        seen = await read_back(request.anthropic_block, request.workspace_id, key.id)
        outcome = AttachOutcome(outcome=Attached.BEFORE)
        await record(request.workspace_id, attached(request.workspace_id, outcome, seen))
        await publish_evidence(request.workspace_id)
    await publish(
        "onboarding",
        request.workspace_id,
        standing_report(facts, report, repaired=repaired),
        "already attached",
    )
    return Completed(
        name="Already attached",
        message=f"{request.workspace_id} has {key.id} ({facts.key.name}); it validates, "
        + ("and was repaired" if repaired else "and nothing was written"),
    )


async def _plan_only(request: OnboardingRequest, admission: Admission) -> State[Any]:
    """Checks and a dry plan, without one write."""
    report = await check_prerequisites(request)
    steps = dry_plan(request, admission.organization_id, await read_standings(request))
    await publish(
        "plan",
        request.workspace_id,
        f"# Dry plan\n\n{dry_plan_text(steps)}\n\n## Prerequisites\n\n{checks_table(report)}",
        "dry plan, nothing was written",
    )
    name = "Prerequisites fail" if report.failed else "Planned"
    writes = [step.title for step in steps if step.action != "nothing"]
    return Completed(name=name, message="would do: " + (", ".join(writes) or "nothing"))
