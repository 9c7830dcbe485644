"""Flows and deployments with Prefect's own engine, executed in this process as a worker would."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.flows import Flow


async def execute_flow(flow: Flow[..., Any], run: FlowRun, parameters: Mapping[str, Any]) -> None:
    """Execute a flow run until it suspends or ends; the server has its state then."""
    with suppress(Pause):  # a suspension raises it, whatever the return type
        await run_flow_async(flow, flow_run=run, parameters=dict(parameters), return_type="state")


def execute(flow: Flow[..., Any], run: FlowRun, parameters: Mapping[str, Any]) -> None:
    """The same, for a caller without an event loop."""
    asyncio.run(execute_flow(flow, run, parameters))


def deploy(flow: Flow[..., Any], name: str) -> UUID:
    """Make a deployment of a flow; returns its id."""
    deployment: Any = flow.to_deployment(name)  # Prefect's type includes a coroutine
    return UUID(str(deployment.apply()))


def late_runs(
    client: SyncPrefectClient, deployment: UUID, number: int, request: dict[str, Any]
) -> list[FlowRun]:
    """Runs that a real server's scheduler made while there was no worker, oldest first."""
    schedule = {
        "schedule": {"cron": "*/15 * * * *", "timezone": "UTC"},
        "active": True,
        "parameters": {"request": request},
    }
    id_, now = {"id": deployment}, datetime.now(UTC)
    made = client.request("POST", "/deployments/{id}/schedules", path_params=id_, json=[schedule])
    made.raise_for_status()
    span = {
        "start_time": (now - timedelta(minutes=15 * number)).isoformat(),
        "end_time": now.isoformat(),
        "max_runs": number,
        "min_runs": number,
        "min_time": 0.0,
    }
    made = client.request("POST", "/deployments/{id}/schedule", path_params=id_, json=span)
    made.raise_for_status()
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=now),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )
    assert len(runs) == number
    return runs
