"""Flows and deployments with Prefect's own engine, executed in this process as a worker would."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
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
