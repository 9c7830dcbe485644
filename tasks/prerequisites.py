"""All prerequisites at once, read anew each time."""

from __future__ import annotations

from cmek.keys.prerequisites import run_checks
from cmek.keys.verdicts import CheckReport
from cmek.onboarding.request import OnboardingRequest
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client, google_client, kms_client


class PrerequisitesFailedError(Exception):
    """At least one check fails; nothing was made. The message names each with its remedy."""

    def __init__(self, report: CheckReport) -> None:
        lines = [f"{c.title}: {c.evidence} To mend it: {c.remedy}" for c in report.failed]
        super().__init__("prerequisites fail, nothing was made. " + " | ".join(lines))
        self.report = report


@uncached_task(
    name="Prerequisites",
    task_run_name="Prerequisites",
)
async def check_prerequisites(request: OnboardingRequest) -> CheckReport:
    """Every check; a read that is refused makes `unknown`, never an exception."""
    return await run_checks(
        request,
        admin=await admin_client(request.anthropic_block),
        kms=await kms_client(request.kms_block),
        google=await google_client(request.kms_block),
    )
