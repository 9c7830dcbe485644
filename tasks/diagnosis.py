"""After a failed validation: which of the known causes is it?"""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from cmek.diagnosis import Cause, Failure, diagnose, gather_facts
from cmek.request import OnboardingRequest
from tasks.clients import admin_client, google_client, kms_client


@task(name="Diagnose", task_run_name="Diagnose", cache_policy=NO_CACHE, persist_result=False)
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
