"""All prerequisites of an onboarding, without onboarding anything."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from cmek.errors import MAX_MESSAGE, bounded
from cmek.onboarding.reports import checks_list, checks_table, summary
from cmek.onboarding.request import OnboardingForm
from cmek.outcomes import RunOutcome
from flows._outcome import reporting
from tasks.artifacts import publish
from tasks.clients import close_clients
from tasks.reads import check_prerequisites, resolve_request


@flow(
    name="check-prerequisites",
    flow_run_name="check {request.subject}",
    persist_result=False,
    retries=0,
)
async def check_prerequisites_only(request: OnboardingForm) -> State[Any]:
    """Check everything that an onboarding needs, and write nothing.

    The table of checks is the run's artifact. The run fails when a check fails.

    Args:
        request: As for an onboarding.
    """
    try:
        report = await check_prerequisites(await resolve_request(request))
    finally:
        await close_clients()
    found = summary(report)
    page = f"# Prerequisites\n\n{found}\n\n{checks_list(report)}\n\n{checks_table(report)}"
    failed = bounded(
        "; ".join(f"{one.title}: {one.evidence}" for one in report.failed), MAX_MESSAGE
    )
    async with reporting(failed or found) as publishing:
        await publishing.part("table", publish("checks", request.subject, page, found))
    if report.failed:
        return Failed(name=RunOutcome.PREREQUISITES_FAIL, message=failed)
    return Completed(name=RunOutcome.CHECKED, message=found)
