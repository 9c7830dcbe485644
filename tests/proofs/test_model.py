"""No schedule of honest people, attackers, faults and crashes leads to an unsafe attach."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.proofs.schedules import explored
from tests.support.crashes import never
from tests.support.driver import Hook
from tests.support.machine import MARKS, Onboarding, stage
from tests.support.runs import DrivenRun, Killed


@pytest.fixture(scope="module", autouse=True)
def _staged() -> Iterator[None]:
    """One sandbox and the approvers."""
    with ExitStack() as stack:
        stage(stack)
        yield


class Traced(Onboarding):
    """Keeps the calls of each execution, with times, ids and responses, and how it ended."""

    trace: ClassVar[list[Any]] = []

    def _execute(self, run: DrivenRun, hook: Hook = never) -> None:
        log = self.driver.sandbox.world.log
        done = len(log.entries)
        super()._execute(run, hook)
        calls = [entry.to_json() | {"number": None} for entry in log.entries[done:]]
        self.trace.append((run.id, run.state, run.message, calls))


def test_no_schedule_leads_to_an_unsafe_attach() -> None:
    """An independent checker judges every attach, and some schedules do attach.

    These schedules are for every test run; `make prove` explores many more.
    """
    seed = secrets.randbelow(1_000_000)
    found = explored(Onboarding, 24, seed, shrink=True)
    assert (found.unsafe, found.flaky) == (None, None), f"seed {seed}"
    assert Onboarding.tally["attach requests"] > 0
    assert Onboarding.tally["writes to a foreign key"] > 0


def test_the_same_seed_gives_the_same_calls_and_ends() -> None:
    """Hypothesis repeats and shrinks schedules, so nothing outside the model may change one."""
    traces = []
    for _ in range(2):
        Traced.trace.clear()
        explored(Traced, 6, 1, shrink=False)
        traces.append(list(Traced.trace))
    assert len(traces[0]) > 6
    assert traces[0] == traces[1]


class Drawn(RuleBasedStateMachine):
    """Records what is drawn for its opening."""

    tally: ClassVar[Counter[str]] = Counter()
    openings: ClassVar[list[int]] = []

    @initialize(opening=st.sampled_from(range(1000)))
    def open(self, opening: int) -> None:
        """Record the opening."""
        self.openings.append(opening)
        self.tally["schedules"] += 1

    @rule(one=st.integers(0, 2))
    def step(self, one: int) -> None:
        """Do nothing: Hypothesis needs at least one rule."""


def test_each_schedule_is_drawn_anew() -> None:
    """Otherwise most schedules would repeat the ending of the one before them."""
    assert explored(Drawn, 100, 1, shrink=False).schedules == 100
    assert len(set(Drawn.openings)) > 80


def test_a_change_after_the_reads_that_is_undone_does_not_make_an_attach_unsafe() -> None:
    """The checker must compare with the facts that the approver was shown, not with later ones."""
    model = Onboarding()
    with model.surroundings:
        Onboarding.required = 0
        model._start()
        model._execute(model.driver.runs[0])
        calls = model.driver.calls
    model = Onboarding()
    with model.surroundings:
        model._start()
        (run,) = model.driver.runs
        model._execute(run, model._interfering("share", calls))
        model.scene.share()
        model.approve(0)
        model.execute(0)
        assert run.state == "Attached", run.message


def test_the_retry_of_a_run_that_was_killed_behind_its_attach_sets_the_marks() -> None:
    """It found the workspace attached, and writes nothing else."""
    model = Onboarding()
    with model.surroundings:
        Onboarding.required = 0
        model._start()
        (run,) = model.driver.runs
        model._execute(run)
        model.approve(0)
        log = model.driver.sandbox.world.log

        def kill(number: int, moment: str) -> None:
            if moment == "after" and model.scene.attaches(log.entries):
                raise Killed

        model._execute(run, kill)
        assert run.state == "Crashed", run.message
        done = len(log.entries)
        run.retry()
        model._execute(run)
        assert run.state == "Already attached", run.message
        assert {one.call for one in log.entries[done:] if one.write} == MARKS
