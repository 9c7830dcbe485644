"""Any fault at any call: typed errors, a bounded number of calls, nothing lost or done twice.

Here a part of the scripts is run; `make prove` runs all.
"""

from __future__ import annotations

from tests.support.crashes import answer, begin
from tests.support.driver import Driver
from tests.support.fault_scripts import all_scripts, survive_faults
from tests.support.lost_reports import lost_reports, survive_lost_report
from tests.support.scene import WORKSPACE

EVERY = 74
CREATE_EVERY = 5
LOST_EVERY = 10


def test_every_fault_of_the_creation_is_survived(driver: Driver) -> None:
    """The end is one workspace, whether the create took effect before the fault or not."""
    scripts = all_scripts(driver, creates=True)
    of_create = [script for script in scripts if script.call == "workspaces.create"]
    for script in of_create[::CREATE_EVERY]:
        survive_faults(driver, script)


def test_every_fault_is_survived(driver: Driver) -> None:
    """Each fault at each call, before and after its effect, once and for a long time."""
    scripts = all_scripts(driver)
    assert len({script.call for script in scripts}) > 20
    for script in scripts[::EVERY]:
        survive_faults(driver, script)


def test_a_report_that_is_not_taken_hides_nothing(driver: Driver) -> None:
    """The run still says what happened, above all that a key is attached: nobody can undo that."""
    for lost in list(lost_reports(driver))[::LOST_EVERY]:
        survive_lost_report(driver, lost)


def test_a_workspace_that_shows_another_key_is_not_said_to_have_ours(driver: Driver) -> None:
    """The read after the attach is believed, not Anthropic's answer to the attach."""
    scene, run = begin(driver, creates=False)
    driver.execute(run)
    answer(run)

    def change(number: int, when: str) -> None:
        if scene.attaches(scene.world.log.entries):
            scene.world.admin.workspaces[WORKSPACE].external_key_id = "ekey_another"

    driver.execute(run, change)
    assert run.state == "Failed"
    assert "shows the key ekey_another" in run.message
    assert "check both in the Console" in run.message
    assert "is attached to" not in run.message
