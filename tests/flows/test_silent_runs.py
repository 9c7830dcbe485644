"""Only a run that claims to be running without a sign of life is marked as crashed.

Pending is such a claim: a worker has taken the run and starts its process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Paused, Pending, Running, Scheduled, Suspended

import tasks.runs
from flows.watchdog import crash_stale_run
from tests.support.onboarding import Onboardings

pytestmark = pytest.mark.server

LATER: State[Any] = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
"""A run that is due would soon be marked as Late."""


@flow
def _some_flow() -> None:
    """The tests make its runs and set their states; none executes."""


def run_in(client: SyncPrefectClient, *states: State) -> UUID:
    run = client.create_flow_run(_some_flow)
    for state in states:
        client.set_flow_run_state(run.id, state, force=True)
    return run.id


async def _watched(run_id: UUID, seconds: float) -> State:
    return await crash_stale_run(run_id, seconds, return_state=True)


def look(run_id: UUID, seconds: float) -> tuple[str | None, str]:
    end = asyncio.run(_watched(run_id, seconds))
    return end.name, end.message or ""


def heartbeat(client: SyncPrefectClient, run_id: UUID) -> None:
    """Send what Prefect's engine sends from the process of a run."""
    event = {
        "id": str(uuid4()),
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
    }
    client.request("POST", "/events", json=[event]).raise_for_status()


@pytest.mark.parametrize("states", [(Pending(), Running()), (Pending(),)])
def test_a_run_without_a_sign_of_life_is_marked_as_crashed(
    bench: Onboardings, states: tuple[State, ...]
) -> None:
    run_id = run_in(bench.client, *states)
    assert look(run_id, 1)[0] == "Marked as crashed"
    state = bench.client.read_flow_run(run_id).state
    assert state is not None
    assert state.is_crashed()
    assert "Retry" in str(state.message)


@pytest.mark.parametrize(
    "state",
    [
        Suspended(timeout_seconds=600),
        pytest.param(Paused(timeout_seconds=600), marks=pytest.mark.prove),
        pytest.param(LATER, marks=pytest.mark.prove),
        Completed(),
    ],
)
def test_a_run_that_does_not_claim_to_be_running_is_left_alone(
    bench: Onboardings, state: State
) -> None:
    """However silent it is: a run that waits for an approval sends nothing for days."""
    run_id = run_in(bench.client, Running(), state)
    name, message = look(run_id, 0)
    assert (name, str(state.name) in message) == ("Left alone", True)
    assert bench.client.read_flow_run(run_id).state_name == state.name


@pytest.fixture
def after_first_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Sets what happens directly after the watchdog's first read."""
    last_heartbeat = tasks.runs._last_heartbeat
    monkeypatch.setattr(tasks.runs, "_POLL_SECONDS", 0.1)

    def let(happen: Callable[[], object]) -> None:
        async def looks(client: PrefectClient, run_id: UUID) -> UUID | None:
            seen = await last_heartbeat(client, run_id)
            monkeypatch.setattr(tasks.runs, "_last_heartbeat", last_heartbeat)
            await asyncio.to_thread(happen)
            return seen

        monkeypatch.setattr(tasks.runs, "_last_heartbeat", looks)

    return let


def test_a_heartbeat_or_another_state_while_watched_is_a_sign_of_life(
    bench: Onboardings, after_first_read: Callable[[Callable[[], object]], None]
) -> None:
    """A run that was only slow goes on, and so does one that begins to wait meanwhile."""
    beats, waits = (run_in(bench.client, Running()) for _ in range(2))
    starts = run_in(bench.client, Pending())
    after_first_read(partial(heartbeat, bench.client, beats))
    assert look(beats, 20) == ("Left alone", f"run {beats}: it gave a sign of life")
    after_first_read(partial(begin_to_wait, bench.client, waits))
    assert look(waits, 20) == ("Left alone", f"run {waits}: it is Suspended")
    after_first_read(partial(bench.client.set_flow_run_state, starts, Running(), force=True))
    assert look(starts, 20) == ("Left alone", f"run {starts}: it gave a sign of life")
    assert bench.client.read_flow_run(beats).state_name == "Running"


def test_a_server_that_is_away_for_some_time_ends_no_watch(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else watches the run. Heartbeats that were lost meanwhile are not held against it."""
    read, answers = PrefectClient.read_flow_run, iter([False, True, True, False])
    started = []

    async def now_and_then(client: PrefectClient, run_id: UUID) -> FlowRun:
        if next(answers, False):
            request = httpx.Request("GET", "http://127.0.0.1/flow_runs")
            raise httpx.HTTPStatusError(
                "busy", request=request, response=httpx.Response(500, request=request)
            )
        started.append(time.monotonic())
        return await read(client, run_id)

    monkeypatch.setattr(tasks.runs, "_POLL_SECONDS", 0.1)
    run_id = run_in(bench.client, Running())
    monkeypatch.setattr(PrefectClient, "read_flow_run", now_and_then)
    assert look(run_id, 0)[0] == "Marked as crashed"
    assert len(started) >= 3, "one read before, and two of the watch that began anew"


def test_whoever_finds_a_dead_watchdog_goes_on_with_its_watch(bench: Onboardings) -> None:
    """The automation has fired for the run already, and does not fire for it again."""
    silent, alive = (run_in(bench.client, Running()) for _ in range(2))
    for watched, expected in ((silent, "Marked as crashed"), (alive, "Left alone")):
        dead = bench.client.create_flow_run(
            crash_stale_run, parameters={"flow_run_id": str(watched), "watch_seconds": 360}
        )
        bench.client.set_flow_run_state(dead.id, Running(), force=True)
        if watched == alive:
            bench.client.set_flow_run_state(watched, Completed(), force=True)
        name, message = look(dead.id, 0)
        assert (name, str(watched) in message) == (expected, True)
        assert bench.client.read_flow_run(dead.id).state_name == "Crashed"
    assert bench.client.read_flow_run(silent).state_name == "Crashed"


def begin_to_wait(client: SyncPrefectClient, run_id: UUID) -> None:
    client.set_flow_run_state(run_id, Suspended(timeout_seconds=600), force=True)


def test_a_run_that_was_deleted_is_no_error(bench: Onboardings) -> None:
    run_id = run_in(bench.client, Running())
    bench.client.delete_flow_run(run_id)
    assert look(run_id, 1) == ("Left alone", f"run {run_id}: it was deleted")
