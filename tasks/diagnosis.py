"""After a failed validation: which of the known causes is it?"""

from __future__ import annotations

from cmek.keys.diagnosis import Failure, diagnose, gather_facts
from cmek.keys.rules import Cause
from cmek.onboarding.request import OnboardingRequest
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client, google_client, kms_client


@uncached_task(
    name="Diagnose",
    task_run_name="Diagnose",
)
async def find_causes(request: OnboardingRequest, failure: Failure) -> tuple[Cause, ...]:
    """Every known cause, the most likely first; each proved, excluded or open by our own reads."""
    facts = await gather_facts(
        request,
        failure,
        admin=await admin_client(request.anthropic_block),
        kms=await kms_client(request.kms_block),
        google=await google_client(request.kms_block),
    )
    return diagnose(facts)
