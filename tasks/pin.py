"""Pin the request, so that parameters changed later are noticed."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext

from cmek.onboarding.request import OnboardingRequest


def _run_id_only(context: TaskRunContext, parameters: dict[str, Any]) -> str:  # noqa: ARG001
    return f"cmek-{context.task_run.flow_run_id}-pin"


@task(
    name="Pin the request",
    task_run_name="Pin the request",
    persist_result=True,
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_run_id_only),
)
async def pin_request(request: OnboardingRequest) -> OnboardingRequest:
    """The request as this run first saw it, whatever its parameters say by now."""
    return request
