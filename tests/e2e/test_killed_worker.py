"""One of two workers is killed: a waiting run still waits, a running one is marked as crashed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Pending, Scheduled

from cli.deploy import install
from cli.local.stack import WORKER
from tasks.runs import ONBOARDING
from tests.support.killing import executing, kill_worker
from tests.support.stack import Stack, running_stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.prove, pytest.mark.timeout(600)]

HEARTBEAT_SECONDS = 30
"""The shortest interval that Prefect allows."""
SILENT_SECONDS = 2.0 * HEARTBEAT_SECONDS
FOUND_SECONDS = 2 * SILENT_SECONDS + 120
"""The silence, the same time again until it is noticed, Prefect's buffer of a minute, and the start
of a process."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack with the automation that detects silent runs, as an operator installs it."""
    beats = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}
    with running_stack(extra_environment=beats) as running:
        install(running.client, [], within={"run-silent": SILENT_SECONDS})
        yield running


def start_working(stack: Stack) -> FlowRun:
    """A run that is in the middle of a call, with its process."""
    stack.control.fault("external_keys.create", kind="delay", seconds=20)
    run = stack.start_onboarding(stack.new_workspace("works"))
    call = {"call": "external_keys.create", "status": "PENDING"}
    wait_until(lambda: stack.control.log(**call), "working")
    assert executing(run.id)
    return run


def attach(stack: Stack, run_id: UUID) -> None:
    """Approve the latest request, and check the end."""
    ask = stack.wait_for_pending(run_id)
    stack.answer(ask)
    stack.wait_for_state(run_id, "Attached")
    assert stack.is_attached(ask.workspace)


def test_a_killed_worker_costs_no_run(stack: Stack) -> None:
    """One run waits and one is in work when the worker dies; the other worker completes both."""
    first = next(child for child in stack.local.children if child.name == WORKER)
    waits = stack.start_onboarding(stack.new_workspace("waits"))
    stack.wait_for_pending(waits)
    works = start_working(stack)
    stack.local.start_worker("second")
    kill_worker(stack, first)
    assert executing(works.id) == []
    assert stack.run(works.id).state_name == "Running"
    wait_until_crashed(stack, works.id)
    assert stack.run(waits.id).state_name == "Suspended"
    stack.client.set_flow_run_state(works.id, Scheduled(name="AwaitingRetry"))
    attach(stack, works.id)
    attach(stack, waits.id)
    keys = stack.admin("GET", "external_keys?limit=100")["data"]
    names = [one["provider_config"]["key_name"] for one in keys]
    assert len(names) == len(set(names))


def test_a_run_that_a_worker_took_and_never_started_is_found(stack: Stack) -> None:
    """The worker died in between; only the run's state shows that."""
    request = stack.request(stack.new_workspace("taken"))
    far: State[None] = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
    deployment = stack.client.read_deployment_by_name(ONBOARDING)
    run = stack.client.create_flow_run_from_deployment(
        deployment.id, parameters={"request": request}, state=far
    )
    stack.client.set_flow_run_state(run.id, Pending())
    wait_until_crashed(stack, run.id)
    stack.client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"))
    attach(stack, run.id)


def wait_until_crashed(stack: Stack, run_id: UUID) -> None:
    """Wait until the automation has marked the run as crashed."""

    def crashed() -> State | None:
        state = stack.run(run_id).state
        return state if state is not None and state.is_crashed() else None

    state = wait_until(crashed, "noticed to be dead", FOUND_SECONDS)
    assert "no sign of life" in str(state.message)
