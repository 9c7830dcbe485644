"""Discoveries in this process, with a sandbox and with Prefect on a server or in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow

from cmek.discovery.request import DiscoveryRequest
from flows.discover import discover_workspaces, workspace_created
from tasks.discovery import PAGE_KEY
from tests.support.execution import deploy, execute, late_runs
from tests.support.onboarding import Onboardings, Run
from tests.support.sandbox import admin_call


@dataclass
class Discoveries:
    """The two deployments of discovery, and the bench with the onboarding's deployment."""

    bench: Onboardings
    hourly: UUID
    announced: UUID

    @classmethod
    def deployed(cls, bench: Onboardings) -> Discoveries:
        """Make the deployments."""
        return cls(
            bench,
            deploy(discover_workspaces, "scheduled"),
            deploy(workspace_created, "event"),
        )

    def workspace(self, name: str, **tags: str) -> str:
        """Make a workspace without a key; returns its id."""
        return str(self._post("workspaces", {"name": name, "tags": tags})["id"])

    def tag(self, workspace_id: str, **tags: str) -> None:
        """Set tags of a workspace."""
        self._post(f"workspaces/{workspace_id}", {"tags": tags})

    def archive(self, workspace_id: str) -> None:
        """Archive a workspace."""
        self._post(f"workspaces/{workspace_id}/archive", {})

    def discover(self, **request: Any) -> FlowRun:
        """Execute one discovery to its end."""
        asked = {"project_id": self.bench.sandbox.project_id} | request
        return self._execute(discover_workspaces, self.hourly, {"request": asked})

    def late(self, number: int, **request: Any) -> list[FlowRun]:
        """Runs of the schedule that were due during an outage of the worker, oldest first."""
        asked = {"project_id": self.bench.sandbox.project_id} | request
        return late_runs(self.bench.client, self.hourly, number, asked)

    def execute(self, run: FlowRun) -> FlowRun:
        """Execute a run of the schedule to its end."""
        return self._executed(discover_workspaces, run, run.parameters)

    def announce(self, payload: object, **request: Any) -> FlowRun:
        """Execute the run that an event starts; a `str` is sent unchanged, other values as JSON."""
        asked = {"project_id": self.bench.sandbox.project_id} | request
        text = payload if isinstance(payload, str) else json.dumps(payload)
        return self._execute(workspace_created, self.announced, {"payload": text, "request": asked})

    def runs_of(self, workspace_id: str) -> list[Run]:
        """The onboarding runs for a workspace, oldest first."""
        wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"workspace:{workspace_id}"]))
        found = self.bench.client.read_flow_runs(flow_run_filter=wanted)
        return [
            Run(self.bench, run.id, run.parameters)
            for run in sorted(found, key=lambda run: str(run.created))
        ]

    def page(self) -> str:
        """The table that the last discovery published."""
        answer = self.bench.client.request(
            "GET", "/artifacts/{key}/latest", path_params={"key": PAGE_KEY}
        )
        return str(answer.json()["data"])

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return admin_call(self.bench.sandbox, "POST", path, body)

    def _execute(self, flow: Flow[Any, Any], deployment: UUID, given: dict[str, Any]) -> FlowRun:
        run = self.bench.client.create_flow_run_from_deployment(deployment, parameters=given)
        return self._executed(flow, run, given)

    def _executed(self, flow: Flow[Any, Any], run: FlowRun, given: dict[str, Any]) -> FlowRun:
        parameters = given | {"request": DiscoveryRequest.model_validate(given["request"])}
        execute(flow, run, parameters)
        return self.bench.client.read_flow_run(run.id)
