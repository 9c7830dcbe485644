"""Onboardings in this process, with a sandbox and with Prefect on a server or in memory.

A run is executed until it suspends or ends, as by a worker; between two executions a test can
change server, sandbox and clocks. That takes a fraction of the time of a worker's process start.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.client.schemas.responses import OrchestrationResult

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from blocks.onboarding_policy import OnboardingPolicy
from cli.client import every
from cmek.onboarding.approval_request import ApprovalRequest
from cmek.onboarding.policy import DEFAULT_POLICY
from cmek.onboarding.request import OnboardingForm
from flows.onboard import onboard_workspace
from sandbox.server import Sandbox
from tests.support.execution import deploy, execute
from tests.support.kms import Kms, grpc_client, rest_client
from tests.support.requests import LENIENT, REQUESTER, approval_of, form_json
from tests.support.sandbox import SandboxControl, running
from tests.support.signing import Office
from tests.support.waiting import wait_until


@dataclass
class Run:
    """One onboarding run of the deployment."""

    bench: Onboardings
    id: UUID
    parameters: dict[str, Any]

    def read(self) -> FlowRun:
        """The run as the server stores it."""
        return self.bench.client.read_flow_run(self.id)

    @property
    def state(self) -> str:
        """The name of its state."""
        state = self.read().state
        return state.name if state and state.name else "none"

    @property
    def message(self) -> str:
        """Its state's message."""
        state = self.read().state
        return (state.message or "") if state else ""

    def execute(self) -> Run:
        """Do what a worker does: execute the run until it suspends or ends."""
        run = self.read()
        request = OnboardingForm.model_validate(run.parameters["request"])
        execute(onboard_workspace, run, {"request": request})
        return self

    @contextmanager
    def executed_when_scheduled(self) -> Iterator[None]:
        """Execute the run in a second thread, as soon as it was resumed in the block."""

        def work() -> None:
            wait_until(self._is_scheduled, "scheduled")
            self.execute()

        with ThreadPoolExecutor(max_workers=1) as pool:
            # Prefect's settings, which name the server, are in this thread's context only
            done = pool.submit(copy_context().run, work)
            yield
            done.result()

    def _is_scheduled(self) -> bool:
        state = self.read().state
        return state is not None and state.is_scheduled()

    def form(self) -> dict[str, Any]:
        """The JSON schema of the form that it waits with."""
        return json.loads(self._input("schema"))  # type: ignore[no-any-return]

    @property
    def approval_request(self) -> ApprovalRequest:
        """The approval request in that form."""
        carried = self.form()["properties"]["plan_digest"]["approval_request"]
        return ApprovalRequest.model_validate(carried)

    def text(self) -> str:
        """The text above the form."""
        return str(json.loads(self._input("description")))

    def _input(self, part: str) -> str:
        state = self.read().state
        assert state is not None
        keyset = state.state_details.run_input_keyset
        assert keyset, f"the run is {state.name}: {state.message}"
        return self.bench.client.read_flow_run_input(self.id, keyset[part])

    def full_answer(self, **changes: Any) -> dict[str, Any]:
        """An approval that fits the form, with changes; None leaves a field out."""
        request = self.parameters["request"]
        typed = "workspace_name" if request.get("new_workspace") else "workspace_id"
        fields = {typed: request["workspace"]} | changes
        return approval_of(self.approval_request, **fields)

    def force(self, state: State[Any]) -> OrchestrationResult[Any]:
        """Set a state without Prefect's rules, as every client with access to its API can."""
        return self.bench.client.set_flow_run_state(self.id, state, force=True)

    def forge_response(self, fields: dict[str, Any]) -> None:
        """Write a response to where Prefect stores it, without a check by the form's schema."""
        state = self.read().state
        assert state is not None
        keyset = state.state_details.run_input_keyset
        assert keyset is not None
        self.bench.client.create_flow_run_input(self.id, keyset["response"], json.dumps(fields))

    def answer(self, **changes: Any) -> OrchestrationResult[Any]:
        """Resume with `full_answer`."""
        return self.bench.client.resume_flow_run(self.id, run_input=self.full_answer(**changes))

    def approve(self, **changes: Any) -> Run:
        """Answer, check that the server accepts it, and execute the run."""
        result = self.answer(**changes)
        assert result.status.value == "ACCEPT", result.details
        return self.execute()


@dataclass
class Onboardings:
    """A server, a sandbox, and the deployment between them."""

    client: SyncPrefectClient
    sandbox: Sandbox
    control: SandboxControl
    deployment: UUID

    def start(self, workspace: str | None = None, **request: Any) -> Run:
        """Create a run through the API, by the fields of its request, without executing it."""
        fields = {
            "workspace_id": workspace or self.fresh,
            "project_id": self.sandbox.project_id,
            "requested_by": REQUESTER,
        }
        parameters = {"request": form_json(fields | request)}
        created = self.client.create_flow_run_from_deployment(
            self.deployment, parameters=parameters
        )
        return Run(self, created.id, parameters)

    def asked(self, **request: Any) -> Run:
        """A run that waits for its first response."""
        run = self.start(**request).execute()
        assert run.state == "Suspended", f"{run.state}: {run.message}"
        return run

    @property
    def kms(self) -> Kms:
        """Cloud KMS, called as its administrator."""
        return Kms(self.sandbox, grpc_client(self.sandbox), rest_client(self.sandbox))

    @property
    def key_name(self) -> str:
        """The key that a default request for the fresh workspace asks for."""
        location = f"projects/{self.sandbox.project_id}/locations/us-east5"
        return f"{location}/keyRings/anthropic-cmek/cryptoKeys/{self.fresh}"

    @property
    def fresh(self) -> str:
        """A workspace without a key."""
        return self.workspace("fresh")

    def workspace(self, state: str) -> str:
        """The first sample workspace in this state."""
        return next(w["id"] for w in self.sandbox.workspaces if w["state"] == state)

    def attaches(self) -> list[dict[str, Any]]:
        """Every request that tried to set a workspace's key."""
        sent = self.control.log(call="workspaces.update")
        return [one for one in sent if "external_key_id" in one["request"]]

    def writes(self) -> list[str]:
        """The names of all calls that write, also of those without effect."""
        return [one["call"] for one in self.control.log(write=True)]

    def forget_runs(self) -> None:
        """Delete every run: a waiting one claims its workspace, and tests count runs."""
        for run in tuple(every(self.client.read_flow_runs)):
            self.client.delete_flow_run(run.id)

    def artifacts(self, run: Run) -> list[Artifact]:
        """The run's artifacts, newest first."""
        return list(
            self.client.read_artifacts(
                artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
            )
        )


def signed(office: Office, run: Run, *approvers: str, **changes: Any) -> dict[str, str]:
    """The part of a response that these approvers have signed."""
    text = office.answer_text(run.approval_request, *approvers, at=datetime.now(UTC), **changes)
    return {"signed_approvals": text, "comment": "fine"}


@contextmanager
def onboardings() -> Iterator[Onboardings]:
    """Start a sandbox; save the blocks and make the deployment on the running server."""
    with (
        running() as (sandbox, control),
        get_client(sync_client=True) as client,
    ):
        admin = AnthropicAdmin(base_url=sandbox.http, admin_key=sandbox.admin_key)
        admin.save("anthropic-admin", overwrite=True)
        kms = GoogleKms(endpoint=sandbox.grpc, checks_endpoint=sandbox.http)
        kms.save("google-kms", overwrite=True)
        OnboardingPolicy(**dict(LENIENT)).save(DEFAULT_POLICY, overwrite=True)
        yield Onboardings(client, sandbox, control, deploy(onboard_workspace, "onboard"))
