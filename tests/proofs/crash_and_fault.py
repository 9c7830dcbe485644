"""All crash points, all fault scripts, and combinations of faults, in this process."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

import stamina
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.support.crashes import crash_points, survive
from tests.support.determinism import computed_once
from tests.support.driver import driving
from tests.support.fault_combinations import (
    PATIENCE,
    Combination,
    combinations,
    refusals,
    silences,
    survive_combination,
    survive_refusal,
)
from tests.support.fault_scripts import all_scripts, survive_faults
from tests.support.lost_reports import lost_reports, survive_lost_report
from tests.support.sweep_crashes import survive_in_sweep, sweep_points
from tests.support.sweep_faults import (
    survive_sweep_faults,
    survive_sweep_refusal,
    sweep_refusals,
    sweep_scripts,
    sweep_silences,
)
from tests.support.sweep_requests import survive_unanswered, unanswered_requests
from tests.support.sweeps import sweeping

COMBINATIONS: Final = 500
Case = TypeVar("Case")
Place = TypeVar("Place")
Found = tuple[int, list[str]]


def try_all(place: Place, cases: Iterable[Case], attempt: Callable[[Place, Case], None]) -> Found:
    """Try all cases; returns how many there were, and what went wrong."""
    tried, problems = 0, []
    for case in cases:
        tried += 1
        try:
            attempt(place, case)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            problems.append(f"{case}: {type(error).__name__}: {error}")
            sys.stderr.write(problems[-1] + "\n")
        if not tried % 100:
            sys.stderr.write(f"{tried} tried\n")
    return tried, problems


def crashes(start: int) -> Found:
    """Kill the process before and after each outside call."""
    del start
    with driving() as driver:
        points = [*crash_points(driver), *crash_points(driver, creates=True)]
        onboarding = try_all(driver, points, survive)
    with sweeping() as sweeps:
        return _sum(onboarding, try_all(sweeps, sweep_points(sweeps), survive_in_sweep))


def faults(start: int) -> Found:
    """Each fault at each call of an onboarding."""
    del start
    with driving() as driver:
        scripts = [*all_scripts(driver), *all_scripts(driver, creates=True)]
        return try_all(driver, scripts, survive_faults)


def more_faults(start: int) -> Found:
    """Each call refused, or without an answer; and all faults in a revalidation.

    By Prefect's server: each artifact after a response, and each request of a revalidation.
    """
    del start
    with driving() as driver:
        refused = try_all(driver, list(refusals(driver)), survive_refusal)
        lost = try_all(driver, list(lost_reports(driver)), survive_lost_report)
    with driving(patience=PATIENCE) as driver:
        silent = try_all(driver, silences(driver), survive_faults)
    return _sum(refused, lost, silent, *_sweep_faults())


def _sweep_faults() -> Iterator[Found]:
    with sweeping() as sweeps:
        yield try_all(sweeps, sweep_scripts(sweeps), survive_sweep_faults)
        yield try_all(sweeps, sweep_refusals(sweeps), survive_sweep_refusal)
        yield try_all(sweeps, unanswered_requests(sweeps), survive_unanswered)
    with sweeping(patience=PATIENCE) as sweeps:
        yield try_all(sweeps, sweep_silences(sweeps), survive_sweep_faults)


def _sum(*parts: Found) -> Found:
    return sum(tried for tried, _ in parts), [one for _, found in parts for one in found]


def combined(start: int) -> Found:
    """Combinations drawn by Hypothesis; one that fails is shrunk before it is reported."""
    tried = 0

    chosen = settings(
        max_examples=COMBINATIONS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    with driving() as driver:

        def attempt(combination: Combination) -> None:
            nonlocal tried
            tried += 1
            survive_combination(driver, combination)

        explore = given(combinations(driver))(attempt)
        try:
            chosen(seed(start)(explore))()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            return tried, [f"{type(error).__name__}: {error}"]
    return tried, []


_PARTS: Final[dict[str, Callable[[int], Found]]] = {
    "crashes": crashes,
    "faults": faults,
    "more-faults": more_faults,
    "combinations": combined,
}


def main(what: str, start: int) -> dict[str, Any]:
    """Run one of the parts."""
    logging.disable(logging.CRITICAL)
    waiting: AbstractContextManager[None] = stamina.set_testing(True, attempts=4)
    with waiting, computed_once():
        tried, problems = _PARTS[what](start)
    return {"tried": tried, "problems": problems}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]))) + "\n")
