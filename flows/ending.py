"""How an onboarding ends well: the key is on its workspace, now or from before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from cmek.evidence.events import attached, software_versions, started
from cmek.onboarding.reports import final_report, standing_report
from cmek.onboarding.request import OnboardingRequest, data_residency
from cmek.outcomes import RunOutcome
from flows.alone import belongs_to
from flows.gatekeeping import Approved
from flows.making_ready import Admission, validate_registered
from tasks.artifacts import publish, publish_terraform
from tasks.attachment import Attached, AttachOutcome, read_back
from tasks.crypto_key import ensure_crypto_key
from tasks.evidence import (
    grants_written,
    has_recorded,
    key_written,
    leave_marks,
    publish_evidence,
    record,
)
from tasks.grants import ensure_grants
from tasks.reads import check_prerequisites, read_live_facts
from tasks.revalidation import record_onboarding


async def attached_now(request: OnboardingRequest, done: Approved) -> State[Any]:
    """Read back, and publish what happened."""
    plan, now = done.ask.plan, request.for_existing(done.workspace_id)
    seen = await read_back(
        request.anthropic_block, done.workspace_id, plan.external_key_id, _residency(request)
    )
    (entry,) = await record(now.subject, attached(now.subject, done.outcome, seen))
    text = final_report(
        done.ask,
        done.answer,
        done.signers,
        done.report,
        (
            ("outcome", done.outcome.outcome),
            ("workspace", f"{seen.workspace_id} ({seen.workspace_name})"),
            ("request id", done.outcome.request_id or "none"),
            ("workspace shows", seen.external_key_id),
            ("external key shows", seen.key_name or "none"),
            ("evidence", entry.hash),
            ("read back by", ", ".join(str(one) for one in seen.request_ids)),
        ),
    )
    await _publish(request, now, text, "attached")
    if done.outcome.outcome is Attached.NOW:
        await leave_marks(now, plan.key_name, entry, label=request.mark_key)
    await _publish_evidence(request, now)
    facts = done.facts.model_copy(update={"workspace_id": done.workspace_id})
    await record_onboarding(facts, done.users_before)
    await publish_terraform(now)
    born = "" if plan.workspace_id else f" ({plan.workspace_name}), created with it"
    return Completed(
        name=RunOutcome.ATTACHED,
        message=f"{plan.external_key_id} ({plan.key_name}) {done.outcome.outcome} to "
        f"{done.workspace_id}{born}, approved by "
        + (", ".join(done.signers) or f"{done.answer.approver} (a claim)"),
    )


async def attached_before(request: OnboardingRequest, admission: Admission) -> State[Any]:
    """The workspace has this key: read, validate and report; repair only when asked."""
    now, key = admission.request, admission.current_key
    assert key is not None  # noqa: S101  # HAS_OUR_KEY means that there is one
    interrupted, repaired = await has_recorded(), False
    if now.repair:
        adopting = now.model_copy(update={"adopt_existing_key": True})
        ensured = await ensure_crypto_key(adopting, admission.organization_id, ring_is_new=False)
        granted = await ensure_grants(now.kms_block, ensured.key.name)
        repaired = ensured.label_added or granted
        written = (*key_written(ensured), *grants_written(ensured.key.name, written=granted))
        if repaired:
            await record(now.subject, started(now, software_versions()), *written)
            await _publish_evidence(request, now)
    facts = await read_live_facts(now, key.id)
    report = await check_prerequisites(now)
    await validate_registered(now, key.id, changed_at=datetime.now(UTC) if repaired else None)
    if interrupted:  # an earlier attempt of this run attached it, and ended before it could say so
        seen = await read_back(now.anthropic_block, now.subject, key.id, _residency(request))
        outcome = AttachOutcome(outcome=Attached.BEFORE, workspace_id=now.workspace_id)
        await record(now.subject, attached(now.subject, outcome, seen))
        await _publish_evidence(request, now)
    await _publish(
        request, now, standing_report(facts, report, repaired=repaired), "already attached"
    )
    return Completed(
        name=RunOutcome.ALREADY_ATTACHED,
        message=f"{now.subject} has {key.id} ({facts.key.name}); it validates, "
        + ("and was repaired" if repaired else "and nothing was written"),
    )


def _residency(request: OnboardingRequest) -> dict[str, object] | None:
    return data_residency(request.data_residency) if request.create_workspace else None


async def _publish(request: OnboardingRequest, now: OnboardingRequest, text: str, how: str) -> None:
    """The report, for the name of a created workspace and for the id that it has now."""
    for subject in dict.fromkeys((request.subject, now.subject)):
        await publish("onboarding", subject, text, how)


async def _publish_evidence(request: OnboardingRequest, now: OnboardingRequest) -> None:
    """The record, under the name of a created workspace and under its id."""
    if request.subject != now.subject:
        await belongs_to(now.subject)
    for subject in dict.fromkeys((request.subject, now.subject)):
        await publish_evidence(subject)
