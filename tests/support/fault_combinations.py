"""Silent services, refused connections, wrong clocks, and several faults at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from hypothesis import strategies as st

from tests.support.crashes import answer, begin, check_end, check_told, converge, crash_points
from tests.support.driver import Driver
from tests.support.fault_scripts import LONG, Script, all_scripts

PATIENCE: Final = 1.0
"""Seconds that a client waits here; the product waits 15 to 75, which a silent call uses up.

Not less: on a busy machine a call could take effect after its client has given up, like a fault."""
SKEWS: Final = (-86_400, -600, 0, 600, 86_400)
"""Seconds by which the services' clock differs from the worker's."""


def silences(driver: Driver) -> list[Script]:
    """A script for each call, in which no answer comes in time; it may have taken effect."""
    fault = (("kind", "delay"), ("seconds", 2 * PATIENCE))
    calls = dict.fromkeys(point.call for point in crash_points(driver))
    return [Script(call, fault, when, False) for call in calls for when in ("before", "after")]


@dataclass(frozen=True, slots=True)
class RefusedCalls:
    """Nothing listens at one HTTP call of an execution, or from there on."""

    execution: int
    number: int
    lasting: bool

    def __str__(self) -> str:
        calls = f"call {self.number}{' and later ones' if self.lasting else ''}"
        return f"execution {self.execution}: {calls} refused"

    def __call__(self, number: int) -> bool:
        """Whether this call is refused."""
        return number == self.number or (self.lasting and number > self.number)


def refusals(driver: Driver) -> Iterator[RefusedCalls]:
    """Refusals at each outside call of both executions."""
    for point in crash_points(driver):
        if point.when == "before":
            yield RefusedCalls(point.execution, point.number, lasting=False)
            yield RefusedCalls(point.execution, point.number, lasting=True)


def survive_refusal(driver: Driver, refused: RefusedCalls) -> None:
    """Execute with that call refused by the operating system, then go on.

    Raises:
        AssertionError: the run failed with an error that is not ours, or did not converge.
    """
    scene, run = begin(driver, creates=False)
    for execution in (1, 2):
        with driver.refusing(refused) if execution == refused.execution else nullcontext():
            driver.execute(run)
        check_told(scene, run, str(refused))
        if run.state != "Suspended":
            break
        answer(run)
    if run.state in {"Failed", "Crashed"}:
        run.retry()
    if run.state not in {"Attached", "Already attached"}:
        converge(driver, run)
    check_end(scene, run, str(refused))


@dataclass(frozen=True, slots=True)
class Combination:
    """Several faults in one onboarding, and clocks that differ."""

    scripts: tuple[tuple[Script, int, int], ...]
    """Script, how many calls with its name pass first, and how many it hits."""
    skew: int


def combinations(driver: Driver) -> st.SearchStrategy[Combination]:
    """Up to four faults, each at any of the calls, and one of the clocks."""
    scripts = [one for one in all_scripts(driver) if not one.lasting]
    times = st.sampled_from([1, 2, 5, LONG])
    one = st.tuples(st.sampled_from(scripts), st.integers(0, 3), times)
    several = st.lists(one, min_size=1, max_size=4).map(tuple)
    return st.builds(Combination, several, st.sampled_from(SKEWS))


def survive_combination(driver: Driver, combination: Combination) -> None:
    """Execute up to three times with these faults, then go on without them.

    Raises:
        AssertionError: the run failed with an error that is not ours, or did not converge.
    """
    scene, run = begin(driver, creates=False)
    world = scene.world
    world.clock.advance(timedelta(seconds=combination.skew))
    for script, skip, times in combination.scripts:
        world.faults.add(script.injected(skip=skip, times=times))
    lied_to = any(script.is_untrue for script, _, _ in combination.scripts)
    for _ in range(3):
        driver.execute(run)
        check_told(scene, run, str(combination), believes=lied_to)
        if run.state == "Suspended":
            answer(run)
        elif run.state in {"Failed", "Crashed"}:
            run.retry()
        else:
            break
    world.faults.clear()
    if run.state not in {"Attached", "Already attached"}:
        converge(driver, run)
    check_end(scene, run, str(combination), believes=lied_to)
