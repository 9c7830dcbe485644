"""Revalidations in this process, with a sandbox and with Prefect on a server or in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.states import Scheduled

from cli.deploy import PROJECT
from cmek.keys.history import read_page
from cmek.keys.verdicts import KeyRecord
from cmek.revalidation.fleet import FleetRow, read_rows
from cmek.revalidation.request import RevalidationRequest
from flows.revalidate import revalidate_keys
from tasks.artifacts import page_key
from tests.support.execution import deploy, execute, late_runs
from tests.support.waiting import wait_until


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
        """Create a run, without executing it."""
        return self.client.create_flow_run_from_deployment(
            self.deployment, parameters={"request": request}
        )

    def late(self, number: int, **request: Any) -> list[FlowRun]:
        """Runs of a schedule that were due during an outage of the worker, oldest first."""
        return late_runs(self.client, self.deployment, number, request)

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
        """Create a run and execute it."""
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
        return list(
            read_rows(json.loads(str(self.artifact(run, "cmek-fleet").data)), pytest.fail).values()
        )

    def latest_rows(self) -> list[FleetRow]:
        """The newest table."""
        newest = self._artifacts(key=ArtifactFilterKey(any_=["cmek-fleet"]))[0]
        return _rows(newest)

    def artifact(self, run: FlowRun, key: str) -> Artifact:
        """An artifact of a run."""
        found = self._artifacts(
            key=ArtifactFilterKey(any_=[key]),
            flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]),
        )
        return found[0]

    def events(self, external_key_id: str) -> list[str]:
        """The events about a key that were sent until now, oldest first.

        The server stores events in order, but only after it has answered. So one more event is
        sent; once that can be read, all earlier ones can be read too.
        """
        last = f"test.last.{uuid4()}"
        mark = {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": last,
            "resource": {"prefect.resource.id": last},
        }
        self.client.request("POST", "/events", json=[mark])
        wait_until(lambda: self._read_events({"id": [last]}), "kept: the mark")
        found = self._read_events({"id": [f"cmek.key.{external_key_id}"]})
        return [one for one in found if one.startswith("cmek.key.")]

    def payloads(self, external_key_id: str) -> list[dict[str, Any]]:
        """What the events about a key say, in the order of `events`."""
        self.events(external_key_id)  # so that what was sent can be read
        found = self._read({"id": [f"cmek.key.{external_key_id}"]})
        return [one["payload"] for one in found if one["event"].startswith("cmek.key.")]

    def ended(self) -> int:
        """The number of ended checks that the automation for a missed check sees."""
        file = PROJECT / "deploy" / "automations" / "revalidation-missed.yaml"
        trigger = yaml.safe_load(file.read_text())["trigger"]
        self.events("none")  # waits until all that was sent can be read
        labels = {name: [value] for name, value in trigger["match"].items()}
        return self._read_events({"labels": labels}).count(*trigger["expect"])

    def _read_events(self, resource: dict[str, object]) -> list[str]:
        return [one["event"] for one in self._read(resource)]

    def _read(self, resource: dict[str, object]) -> list[dict[str, Any]]:
        wanted = {"resource": resource, "order": "ASC"}
        answer = self.client.request("POST", "/events/filter", json={"filter": wanted})
        found: list[dict[str, Any]] = answer.json()["events"]
        return found

    def _artifacts(self, **filters: Any) -> list[Artifact]:
        found: list[Artifact] = self.client.read_artifacts(
            artifact_filter=ArtifactFilter(**filters)
        )
        return sorted(found, key=lambda one: str(one.created), reverse=True)


def _rows(table: Artifact) -> list[FleetRow]:
    return list(read_rows(json.loads(str(table.data)), pytest.fail).values())
