"""Crash points of a revalidation: the process is killed before or after a call or a record.

A retry must complete it. The points are what an undisturbed sweep does, so that a new call is
covered without any change here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.crashes import WHEN, When
from tests.support.runs import Killed
from tests.support.sweeps import Sweeps


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Before or after one outside call, or one write to Prefect."""

    call: str
    when: When

    def __str__(self) -> str:
        return f"revalidating, {self.when} {self.call}"


def sweep_points(sweeps: Sweeps) -> list[SweepPoint]:
    """Every point of an undisturbed revalidation."""
    run, calls = sweeps.begin(), []
    sweeps.driver.execute(run, lambda number, when: calls.append(sweeps.driver.call))
    sweeps.check_end(run, "undisturbed")
    points = [SweepPoint(call, when) for call in dict.fromkeys(calls) for when in WHEN]
    seen = len(sweeps.log) + sweeps.kept.writes
    assert len(points) == len(calls) == 2 * seen, "a call without a point of its own"
    return points


def survive_in_sweep(sweeps: Sweeps, point: SweepPoint) -> None:
    """Kill a revalidation at this point, retry it, and check the end state.

    Raises:
        AssertionError: a key has no verdict, an event was sent twice or never, a key read twice.
    """
    run = sweeps.begin()

    def kill(number: int, when: str) -> None:
        if (sweeps.driver.call, when) == (point.call, point.when):
            raise Killed

    sweeps.driver.execute(run, kill)
    where = str(point)
    assert run.state == "Crashed", f"{where}: {run.state} {run.message}"
    # a run that had reported everything reads all keys again
    done = set() if "reported" in run.memory else sweeps.done(run)
    known = len(sweeps.log)
    run.retry()
    sweeps.driver.execute(run)
    sweeps.check_end(run, where)
    validated = {one.resource for one in sweeps.log[known:] if "validate" in one.call}
    assert not done & validated, f"{where}: {done & validated} were validated again"
    for name, key in sweeps.ids.items():
        looks = sweeps.looks(name, run)
        assert 1 <= looks <= (1 if key in done else 2), f"{where}: {name} has {looks} records"
