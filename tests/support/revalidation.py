"""Revalidations against a real Prefect server and a sandbox, executed in this process."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.states import Scheduled

from cmek.keys.history import read_page
from cmek.keys.verdicts import KeyRecord
from cmek.revalidation.fleet import FleetRow, read_rows
from cmek.revalidation.request import RevalidationRequest
from flows.revalidate import revalidate_keys
from tasks.artifacts import page_key
from tests.support.execution import deploy, execute


@dataclass
class Revalidations:
    """The deployment, and what its runs leave on the server."""

    client: SyncPrefectClient
    deployment: UUID

    @classmethod
    def deployed(cls, client: SyncPrefectClient) -> Revalidations:
        """Make the deployment."""
        return cls(client, deploy(revalidate_keys, "scheduled"))

    def start(self, **request: Any) -> FlowRun:
        """Create a run; nothing of it is executed yet."""
        return self.client.create_flow_run_from_deployment(
            self.deployment, parameters={"request": request}
        )

    def execute(self, run: FlowRun) -> FlowRun:
        """Do what a worker does."""
        run = self.client.read_flow_run(run.id)
        request = RevalidationRequest.model_validate(run.parameters.get("request", {}))
        execute(revalidate_keys, run, {"request": request})
        return self.client.read_flow_run(run.id)

    def execute_now(self, run: FlowRun) -> FlowRun:
        """Execute a run that is scheduled for later."""
        self.client.set_flow_run_state(run.id, Scheduled(), force=True)
        return self.execute(run)

    def run(self, **request: Any) -> FlowRun:
        """A run from start to end."""
        return self.execute(self.start(**request))

    def page(self, external_key_id: str) -> str:
        """The newest page of a key's history."""
        return str(self.pages(external_key_id)[0].data)

    def pages(self, external_key_id: str) -> list[Artifact]:
        """A key's history, newest first."""
        return self._artifacts(key=ArtifactFilterKey(any_=[page_key(external_key_id)]))

    def record(self, external_key_id: str) -> KeyRecord:
        """The record in the newest page."""
        record = read_page(self.page(external_key_id))
        assert record is not None
        return record

    def rows(self, run: FlowRun) -> list[FleetRow]:
        """The table of a run, in its order."""
        return list(read_rows(json.loads(str(self.artifact(run, "cmek-fleet").data))).values())

    def latest_rows(self) -> list[FleetRow]:
        """The newest table."""
        newest = self._artifacts(key=ArtifactFilterKey(any_=["cmek-fleet"]))[0]
        return list(read_rows(json.loads(str(newest.data))).values())

    def artifact(self, run: FlowRun, key: str) -> Artifact:
        """An artifact of a run."""
        found = self._artifacts(
            key=ArtifactFilterKey(any_=[key]),
            flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]),
        )
        return found[0]

    def events(self, external_key_id: str, *, at_least: int = 1) -> list[str]:
        """The events about a key that reached the server, oldest first.

        They travel on their own; waits a little for as many as are expected.
        """
        wanted = {
            "resource": {"id": [f"cmek.key.{external_key_id}"]},
            "event": {"prefix": ["cmek.key."]},
            "order": "ASC",
        }
        deadline = time.monotonic() + 5
        while True:
            answer = self.client.request("POST", "/events/filter", json={"filter": wanted})
            found = [one["event"] for one in answer.json()["events"]]
            if len(found) >= at_least or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def _artifacts(self, **filters: Any) -> list[Artifact]:
        found: list[Artifact] = self.client.read_artifacts(
            artifact_filter=ArtifactFilter(**filters)
        )
        return sorted(found, key=lambda one: str(one.created), reverse=True)
