"""No schedule of honest people, attackers, faults and crashes leads to an unsafe attach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.crashes import never
from tests.support.driver import Hook
from tests.support.machine import Onboarding, stage
from tests.support.runs import Run

SHORT = settings(
    max_examples=40,
    stateful_step_count=14,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""For every test run; `make prove` explores 10,000 schedules."""


@pytest.fixture(scope="module", autouse=True)
def _staged() -> Iterator[None]:
    """One sandbox and the approvers."""
    with ExitStack() as stack:
        stage(stack)
        yield


class Traced(Onboarding):
    """Keeps the calls of each execution, with times, ids and responses, and how it ended."""

    trace: ClassVar[list[Any]] = []

    def _execute(self, run: Run, hook: Hook = never) -> None:
        log = self.driver.sandbox.world.log
        done = len(log.entries)
        super()._execute(run, hook)
        calls = [entry.to_json() | {"number": None} for entry in log.entries[done:]]
        self.trace.append((run.id, run.state, run.message, calls))


def test_no_schedule_leads_to_an_unsafe_attach() -> None:
    """Every attach is judged by a witness; some schedules do end with one."""
    run_state_machine_as_test(Onboarding, settings=SHORT)
    assert Onboarding.tally["attach requests"] > 0


def test_the_same_seed_gives_the_same_calls_and_ends() -> None:
    """Hypothesis repeats and shrinks schedules: nothing of the real world may change one."""
    chosen = settings(SHORT, max_examples=6, phases=[Phase.generate])
    traces = []
    for _ in range(2):
        Traced.trace.clear()
        run_state_machine_as_test(seed(1)(Traced), settings=chosen)
        traces.append(list(Traced.trace))
    assert len(traces[0]) > 6
    assert traces[0] == traces[1]
