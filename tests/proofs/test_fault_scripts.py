"""Whatever goes wrong at whichever call: typed errors, bounded calls, nothing lost or doubled.

Here a part of the scripts; `make prove` runs all.
"""

from __future__ import annotations

from tests.support.driver import Driver
from tests.support.fault_scripts import all_scripts, survive_faults
from tests.support.lost_reports import lost_reports, survive_lost_report

EVERY = 37
CREATE_EVERY = 5
LOST_EVERY = 5


def test_every_fault_of_the_creation_is_survived(driver: Driver) -> None:
    """One workspace, whether the create took effect before it went wrong or not."""
    scripts = all_scripts(driver, creates=True)
    of_create = [script for script in scripts if script.call == "workspaces.create"]
    for script in of_create[::CREATE_EVERY]:
        survive_faults(driver, script)


def test_every_fault_is_survived(driver: Driver) -> None:
    """Each call, each kind, before and after its effect, once and for long."""
    scripts = all_scripts(driver)
    assert len({script.call for script in scripts}) > 20
    for script in scripts[::EVERY]:
        survive_faults(driver, script)


def test_a_report_that_is_not_taken_hides_nothing(driver: Driver) -> None:
    """Above all not that a key is attached, which nobody can undo."""
    for lost in list(lost_reports(driver))[::LOST_EVERY]:
        survive_lost_report(driver, lost)
