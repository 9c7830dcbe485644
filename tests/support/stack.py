"""A whole local stack for tests: start onboardings, wait for states, approve."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import OrchestrationResult

from cli import approvals
from cli.client import calling, local_async_client, local_client
from cli.deploy import PROJECT, deploy
from cli.local import processes
from cli.local import stack as local_stack
from cli.local import stack as prefect_server
from tasks.discovery import start_onboarding
from tests.support.postgres import cluster
from tests.support.requests import REQUESTER, approval_of
from tests.support.sandbox import SandboxControl, admin_call
from tests.support.waiting import wait_until

PREFECT_FILE = PROJECT / "prefect.yaml"


@dataclass
class Stack:
    """A running stack with a client for its server and a control for its sandbox."""

    local: local_stack.LocalStack
    client: SyncPrefectClient
    control: SandboxControl
    database: str
    """The database's name in this process's PostgreSQL."""

    def workspace(self, state: str = "fresh") -> str:
        """The id of the first sample workspace that is in this state."""
        return self.local.sandbox.workspace_in(state)

    def new_workspace(self, name: str, **tags: str) -> str:
        """Make a fresh workspace; returns its id. The sandbox logs the call like any other."""
        return str(self.admin("POST", "workspaces", {"name": name, "tags": tags})["id"])

    def is_attached(self, workspace_id: str) -> bool:
        """Whether the Admin API shows a key of the workspace."""
        return self.admin("GET", f"workspaces/{workspace_id}")["external_key_id"] is not None

    def admin(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One call of the Admin API as the organization's administrator."""
        return admin_call(self.local.sandbox, method, path, body)

    def run(self, run_id: UUID | str) -> FlowRun:
        """The run as the server stores it now."""
        return self.client.read_flow_run(UUID(str(run_id)))

    def start_onboarding(self, workspace_id: str, **request: Any) -> FlowRun:
        """Start a new run, with the sandbox's project by default."""
        given = self.request(workspace_id) | request
        # a random key: without one, a run under way for the workspace would be returned
        return start_run(self.local.api_url, given, idempotency_key=str(uuid4()))

    def request(self, workspace_id: str) -> dict[str, Any]:
        """The required fields of an onboarding request."""
        return {
            "workspace": workspace_id,
            "project_id": self.local.sandbox.project_id,
            "requested_by": REQUESTER,
        }

    def stop_worker(self) -> None:
        """Stop the worker; runs that it had started are stopped by it."""
        for child in [one for one in self.local.children if one.name == prefect_server.WORKER]:
            processes.stop([child])
            self.local.children.remove(child)

    def wait_for_state(self, run: FlowRun | UUID, *names: str, seconds: float = 60) -> FlowRun:
        """Wait until the run is in a state of one of these names; any other end is an error."""
        run_id = run if isinstance(run, UUID) else run.id
        return wait_for_state(self.client, run_id, *names, seconds=seconds)

    def wait_for_runs(self, *, at_least: int = 1, **wanted: object) -> list[FlowRun]:
        """Wait until there are runs that fit a filter."""
        fitting = FlowRunFilter.model_validate(wanted)

        def enough() -> tuple[list[FlowRun]] | None:
            found = self.client.read_flow_runs(flow_run_filter=fitting)
            return (found,) if len(found) >= at_least else None

        (found,) = wait_until(enough, f"started: {at_least} of {wanted}")
        return found

    def runs_of(self, workspace: str, *, at_least: int = 1) -> list[FlowRun]:
        """The onboarding runs for a workspace, once there are any."""
        tags = {"all_": [f"workspace:{workspace}"]}
        return self.wait_for_runs(at_least=at_least, tags=tags)

    def wait_for_pending(
        self,
        run: FlowRun | UUID,
        *,
        after: approvals.PendingApproval | None = None,
        seconds: float = 60,
    ) -> approvals.PendingApproval:
        """Wait until the run has stored an approval request other than `after`."""
        run_id = run if isinstance(run, UUID) else run.id
        return approvals.wait_for_pending(self.client, run_id, after=after, seconds=seconds)

    def answer(self, ask: approvals.PendingApproval, **fields: Any) -> OrchestrationResult[Any]:
        """Resume with a complete approval, changed by `fields`; None leaves a field out."""
        approval = approval_of(ask.approval_request, **fields)
        return self.client.resume_flow_run(ask.run.id, run_input=approval)

    def deploy(self) -> None:
        """Make the deployments again, after a test has changed them."""
        with _without_quick_checks() as deployments:
            deploy(self.client, deployments, self.local.sandbox.project_id)

    def log_text(self, name: str) -> str:
        """What a part of the stack has logged, by the part's name."""
        return self.local.logs[name].read_text(errors="replace")


def start_run(
    api_url: str, request: Mapping[str, Any], *, idempotency_key: str | None = None
) -> FlowRun:
    """Start an onboarding on a server on loopback."""
    return calling(
        local_async_client(api_url),
        lambda api: start_onboarding(api, request, idempotency_key=idempotency_key),
    )


def wait_for_state(client: SyncPrefectClient, run_id: UUID, *names: str, seconds: float) -> FlowRun:
    """Wait until the run's state has one of the names.

    Raises:
        AssertionError: The run ended in a state of another name, or `seconds` passed.
    """
    deadline = time.monotonic() + seconds
    while True:
        run = client.read_flow_run(run_id)
        state = run.state
        if state is not None and state.name in names:
            return run
        seen = "no state" if state is None else f"{state.name}: {state.message or ''}"
        problem = f"run {run.name} is {seen}, while waiting for {names}"
        assert state is None or not state.is_final(), problem
        assert time.monotonic() < deadline, problem
        time.sleep(0.3)


@contextmanager
def _without_quick_checks() -> Iterator[Path]:
    """The same deployments without the schedule of quick checks, which would disturb any test."""
    content = yaml.safe_load(PREFECT_FILE.read_text())
    for deployment in content["deployments"]:
        if deployment["name"] == "quick":
            deployment.pop("schedules", None)
    with tempfile.TemporaryDirectory(prefix="cmek-deployments-") as scratch:
        path = Path(scratch) / "prefect.yaml"
        path.write_text(yaml.safe_dump(content))
        yield path


@contextmanager
def running_stack(*, extra_environment: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Start a stack, and stop and remove it at the end."""
    database = cluster().new_database()
    with (
        _without_quick_checks() as deployments,
        local_stack.local_stack(
            prefect_file=deployments,
            extra_environment=extra_environment,
            database_url=cluster().url(database),
        ) as local,
        local_client(local.api_url) as client,
    ):
        yield Stack(
            local, client, SandboxControl(local.sandbox.http, local.sandbox.control_token), database
        )
