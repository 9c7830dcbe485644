"""Execute one flow run in a process of its own, as a worker's child does."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import get_client
from pydantic import BaseModel

from cmek.onboarding.request import OnboardingForm
from cmek.revalidation.request import RevalidationRequest
from flows.onboard import onboard_workspace
from flows.revalidate import revalidate_keys
from tests.support.execution import execute_flow

_FLOWS: Final[dict[str, tuple[Any, type[BaseModel]]]] = {
    flow.name: (flow, model)
    for flow, model in (
        (onboard_workspace, OnboardingForm),
        (revalidate_keys, RevalidationRequest),
    )
}


async def execute(run_id: UUID) -> None:
    """Execute the run until it suspends or ends."""
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        flow, model = _FLOWS[(await client.read_flow(run.flow_id)).name]
    request = model.model_validate(run.parameters["request"])
    await execute_flow(flow, run, {"request": request})


def limit_files(size: int) -> None:
    """Let no file grow beyond `size` bytes: a longer write fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the signal would end the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


if __name__ == "__main__":
    if sys.argv[2:]:
        limit_files(int(sys.argv[2]))
    asyncio.run(execute(UUID(sys.argv[1])))
