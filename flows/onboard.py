"""Onboard one workspace: the guide's seven steps, with a person before the last.

A run suspends at the ask and is executed again from the top when it is answered, maybe days later
in another process. What must not happen twice is behind `asked_numbers`: once an ask exists, no
step that writes runs again, so that a stripped grant is refused and not silently repaired.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment
from prefect.states import Completed

from cmek.evidence.events import checked, software_versions, started
from cmek.onboarding.eligibility import Standing
from cmek.onboarding.plan import dry_plan, dry_plan_text
from cmek.onboarding.reports import checks_table
from cmek.onboarding.request import OnboardingRequest
from cmek.outcomes import RunOutcome
from flows.alone import working_alone
from flows.approval import asked_numbers, attempt
from flows.ending import attached_before, attached_now
from flows.gatekeeping import Rejected, approve_and_attach
from flows.making_ready import Admission, admit_workspace, check_first, make_ready
from tasks.artifacts import publish
from tasks.clients import close_clients
from tasks.evidence import publish_evidence, publish_failure, record
from tasks.reads import check_prerequisites, read_standings
from tasks.runs import pin_request
from tasks.signatures import signatures_needed


class NoDeploymentError(Exception):
    """The flow was called without a deployment, so it could not wait for an approval."""


class ParametersChangedError(Exception):
    """The run's parameters are no longer those that it started with."""


@flow(
    name="onboard-workspace",
    flow_run_name="onboard {request.subject}",
    persist_result=True,
    result_serializer="json",
    retries=0,
)
async def onboard_workspace(request: OnboardingRequest) -> State[Any]:
    """Put a Google Cloud KMS key under an Anthropic workspace, or under a new one.

    Checks first, makes what is missing (key ring, key, grants, external key), validates, then
    waits for a person: attaching a key can never be undone. Answer under "Resume" of the waiting
    run, or with `cmek approve`.

    Args:
        request: A workspace or the name of a new one, project and requester are enough; the others
            have the recommended values.

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
    async with working_alone(request.subject, claimed=bool(asked)) as other:
        if other is not None:
            return Completed(
                name=RunOutcome.DUPLICATE,
                message=f"run {other.name} ({other.id}) has {request.subject} already",
            )
        try:
            return await _onboard(pinned, asked)
        except Exception as error:
            await publish_failure(request.subject, error)
            raise
        finally:
            await close_clients()


async def _onboard(request: OnboardingRequest, asked: list[int]) -> State[Any]:
    ready = None
    if not asked:
        admission = await admit_workspace(request)
        if admission.standing is Standing.HAS_OUR_KEY:
            return await attached_before(request, admission)
        if request.plan_only:
            return await _plan_only(request, admission)
        await signatures_needed(request)  # before anything is made that could not be approved
        report = await check_first(request)
        await record(
            request.subject,
            started(request, software_versions()),
            checked(report, f"attempt {attempt()}"),
        )
        ready = await make_ready(request, admission.organization_id)
    result = await approve_and_attach(request, asked, ready)
    if isinstance(result, Rejected):
        await publish_evidence(request.subject)
        return Completed(name=RunOutcome.REJECTED, message=result.why)
    return await attached_now(request, result)


async def _plan_only(request: OnboardingRequest, admission: Admission) -> State[Any]:
    """Checks and a dry plan, without one write."""
    report = await check_prerequisites(request)
    steps = dry_plan(request, admission.organization_id, await read_standings(request))
    await publish(
        "plan",
        request.subject,
        f"# Dry plan\n\n{dry_plan_text(steps)}\n\n## Prerequisites\n\n{checks_table(report)}",
        "dry plan, nothing was written",
    )
    name = RunOutcome.PREREQUISITES_FAIL if report.failed else RunOutcome.PLANNED
    writes = [step.title for step in steps if step.action != "nothing"]
    return Completed(name=name, message="would do: " + (", ".join(writes) or "nothing"))
