"""All crash points and all fault scripts, in this process."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import stamina

from tests.support.crashes import crash_points, survive
from tests.support.driver import Driver, driving
from tests.support.fault_scripts import all_scripts, survive_faults

Case = TypeVar("Case")


def try_all(
    driver: Driver, cases: Iterable[Case], attempt: Callable[[Driver, Case], None]
) -> dict[str, object]:
    """How many were tried, and what did not end as it must."""
    tried, problems = 0, []
    for case in cases:
        tried += 1
        try:
            attempt(driver, case)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            problems.append(f"{case}: {type(error).__name__}: {error}")
    return {"tried": tried, "problems": problems}


def main(what: str) -> dict[str, object]:
    """`crashes` or `faults`."""
    logging.disable(logging.CRITICAL)
    with stamina.set_testing(True, attempts=4), driving() as driver:
        if what == "crashes":
            points = [*crash_points(driver), *crash_points(driver, creates=True)]
            return try_all(driver, points, survive)
        scripts = [*all_scripts(driver), *all_scripts(driver, creates=True)]
        return try_all(driver, scripts, survive_faults)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])) + "\n")
