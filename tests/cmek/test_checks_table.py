"""Every condition of the table, set up in the sandbox and found by the real reads."""

from __future__ import annotations

import pytest

from cmek.keys.prerequisites import CATALOGUE
from sandbox.server import Sandbox
from tests.support.checking import check
from tests.support.condition_setups import Blind, KeyCondition, Situation
from tests.support.conditions import BLIND, CHECKED, CONDITIONS
from tests.support.staging import Stage
from tests.support.troubleshooting import DOCUMENT, condition_row

pytestmark = pytest.mark.anyio

ALWAYS = {"disable_before_destroy": "warn", "retention": "unknown", "features": "warn",
          "effect_time": "warn"}  # fmt: skip
"""The checks that do not pass for a healthy project."""
EXAMINED = [one for one in CONDITIONS if one.check or isinstance(one, KeyCondition)]


@pytest.mark.parametrize("existing", [False, True], ids=["nothing made yet", "key exists"])
async def test_a_healthy_project_passes(sandbox: Sandbox, stage: Stage, existing: bool) -> None:
    """Nothing fails, what no API shows is unknown, and each check of the catalogue reports once."""
    if existing:
        stage.key()
    report = await check(sandbox)
    assert {one.id: one.status for one in report.checks if one.status != "pass"} == ALWAYS
    assert [one.id for one in report.checks] == [one.id for one in CATALOGUE]
    assert report.project_number == "123456789012"


@pytest.mark.parametrize("condition", EXAMINED, ids=lambda one: one.name)
async def test_what_is_wrong_is_found_and_nothing_is_written(
    sandbox: Sandbox, stage: Stage, condition: Situation
) -> None:
    """The right check reports it with the remedy, the others pass, and no call writes.

    A fault of a key that has no check changes no result.
    """
    condition.bring_about(stage)
    stage.world.log.clear()
    expected = condition.check
    report = await check(sandbox, **(expected.subject if expected else {}))
    # without a project or an API the other checks have no answer
    quiet = {"pass"} if isinstance(condition, KeyCondition) else {"pass", "unknown"}
    spoken = {one.id for one in report.checks if one.status not in quiet} - ALWAYS.keys()
    assert [entry for entry in stage.world.log.entries if entry.write] == []
    if expected is None:
        assert spoken == set()
        return
    (found,) = [one for one in report.checks if one.id == expected.id]
    assert found.status == expected.status, found
    assert expected.remedy in (found.remedy or ""), found
    assert expected.evidence in found.evidence, found
    assert spoken | {expected.id} == {expected.id} | expected.also
    assert condition_row(condition, found) in DOCUMENT.read_text()


@pytest.mark.parametrize("blind", BLIND, ids=lambda one: one.check)
async def test_what_cannot_be_read_is_unknown_and_says_who_can_tell(
    sandbox: Sandbox, stage: Stage, blind: Blind
) -> None:
    """A refused read is neither a pass nor a failure."""
    blind.setup(stage)
    report = await check(sandbox)
    (found,) = [one for one in report.checks if one.id == blind.check]
    assert found.status == "unknown", found
    assert found.who_can_tell


def test_the_table_covers_every_check() -> None:
    """Each check has a condition that it reports, and if it reads, a test of its unknown path."""
    every = {one.id for one in CATALOGUE}
    assert {expected.id for _, expected in CHECKED} == every - {"check_apis"}
    assert {one.check for one in BLIND} == every - {"features", "effect_time"}


async def test_a_caller_without_permissions_still_gets_a_report(
    sandbox: Sandbox, stage: Stage
) -> None:
    """With every read refused nothing is raised, and no Google check passes without a read."""
    stage.key()
    stage.world.identities.administrator.permissions = frozenset()
    stage.fault("GetLocation", "PERMISSION_DENIED")
    report = await check(sandbox)
    passed = {one.id for one in report.checks if one.status == "pass"}
    assert passed == {"check_apis", "admin_credential", "cmek_reachable", "workspace"}
    assert {one.id for one in report.failed} == {"caller_on_project"}


async def test_a_read_whose_api_is_off_says_how_to_enable_it(
    sandbox: Sandbox, stage: Stage
) -> None:
    """The checks that need it show the command, and one check names all such APIs."""
    stage.world.google.disabled_services = ["orgpolicy.googleapis.com"]
    report = await check(sandbox)
    off = {one.id for one in report.checks if "orgpolicy.googleapis.com" in (one.remedy or "")}
    assert off == {
        "check_apis", "drs_legacy", "drs_managed", "drs_custom", "location_policy",
        "protection_policy", "destroy_delay_policy", "disable_before_destroy",
    }  # fmt: skip
    assert {one.status for one in report.checks if one.id in off} == {"unknown"}
