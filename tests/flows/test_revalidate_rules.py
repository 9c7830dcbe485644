"""Every health rule, from its condition in the sandbox to what people read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from prefect.client.schemas.objects import FlowRun

from cmek.keys.health import HEALTH_RULES
from cmek.keys.history import SIGNS
from cmek.keys.verdicts import HealthReason, KeyRecord
from tests.support.ailments import AILMENTS, GRANTS, Ailment, days_ago
from tests.support.fleet import Fleet
from tests.support.onboarding import Onboardings
from tests.support.revalidation import Revalidations

NEARLY = timedelta(minutes=10)


@dataclass
class Ward:
    """One revalidation of one key for each ailment."""

    fleet: Fleet
    revalidations: Revalidations
    keys: dict[str, str]
    run: FlowRun
    writes: list[str]

    def record(self, ailment: Ailment) -> KeyRecord:
        """The last record of the key with this ailment."""
        return self.revalidations.record(self.keys[ailment.key])

    def reason(self, ailment: Ailment) -> HealthReason:
        """The reason that the ailment's rule gave."""
        found = [one for one in self.record(ailment).reasons if one.rule == ailment.rule]
        assert found, self.record(ailment).reasons
        return found[0]


@pytest.fixture(scope="module")
def ward(_bench: Onboardings) -> Ward:
    """All ailments at once; a run for each would say the same."""
    _bench.control.reset()
    fleet = Fleet(_bench.sandbox.world)
    revalidations = Revalidations.deployed(_bench.client)
    with days_ago(fleet, 10):
        keys = {"late-comer": _destroyed_before_registration(fleet)}
    keys |= {one.key: one.bring_about(fleet, one.key) for one in AILMENTS}
    _bench.control.clear_log()
    run = revalidations.run(external_keys=list(keys.values()))
    writes = _bench.control.calls(write=True)
    return Ward(fleet, revalidations, keys, run, writes)


def _destroyed_before_registration(fleet: Fleet) -> str:
    with days_ago(fleet, 60):
        fleet.make_key("late-comer", rotation_period=timedelta(days=90))
        fleet.rotate("late-comer")
        fleet.destroy("late-comer", 1)
    fleet.set_policy(fleet.key("late-comer"), GRANTS)
    return fleet.register("late-comer", fleet.key("late-comer"))


@pytest.mark.parametrize("ailment", AILMENTS, ids=lambda one: one.key)
def test_a_condition_gives_its_verdict_and_the_rule_says_so_first(
    ward: Ward, ailment: Ailment
) -> None:
    """The artifact carries verdict and reason, and the reason that decides stands first."""
    record = ward.record(ailment)
    assert record.verdict == ailment.verdict, record.reasons
    page = ward.revalidations.page(ward.keys[ailment.key])
    assert f"\n## {SIGNS[record.verdict]} since " in page
    assert page.startswith("# ")
    if record.verdict != "healthy":
        assert record.worst is not None
        assert record.worst.means == record.verdict
    assert ward.reason(ailment).benchmark == ailment.benchmark


@pytest.mark.parametrize("ailment", [a for a in AILMENTS if a.commands], ids=lambda one: one.key)
def test_the_page_gives_the_exact_commands_in_their_order(ward: Ward, ailment: Ailment) -> None:
    found = ward.reason(ailment).commands
    page = ward.revalidations.page(ward.keys[ailment.key])
    for command, expected in zip(found, ailment.expected_commands(), strict=True):
        assert command == expected or (expected.endswith("=") and command.startswith(expected))
        assert f"\n{command}\n" in page


@pytest.mark.parametrize(
    "ailment", [a for a in AILMENTS if a.days_left is not None], ids=lambda one: one.key
)
def test_a_scheduled_destruction_says_how_long_there_is_left(ward: Ward, ailment: Ailment) -> None:
    record, reason = ward.record(ailment), ward.reason(ailment)
    left = reason.time_left(record.checked_at)
    assert left is not None
    assert ailment.days_left is not None
    assert abs(left - timedelta(days=ailment.days_left)) < NEARLY
    row = next(r for r in ward.revalidations.rows(ward.run) if r.key_name == record.key_name)
    assert row.time_left.startswith(f"{int(ailment.days_left) - 1} d 23 h") or row.time_left in (
        f"{int(ailment.days_left)} d 0 h",
        "23 h 59 min",
        "23 h 58 min",
    )


@pytest.mark.parametrize(
    "ailment", [a for a in AILMENTS if a.days_since is not None], ids=lambda one: one.key
)
def test_a_reason_is_dated_by_the_resource_where_that_tells(ward: Ward, ailment: Ailment) -> None:
    """Since when: not since we looked, but since it happened."""
    record, reason = ward.record(ailment), ward.reason(ailment)
    assert ailment.days_since is not None
    assert reason.since is not None
    age = record.checked_at - reason.since
    assert abs(age - timedelta(days=ailment.days_since)) < NEARLY


def test_every_rule_has_an_ailment() -> None:
    """A new rule needs a condition here; drift, which needs two looks, has its own test."""
    assert {rule.id for rule in HEALTH_RULES} - {one.rule for one in AILMENTS} == {"drift"}


def test_a_version_that_was_gone_before_registration_is_no_loss(ward: Ward) -> None:
    """Nothing of Anthropic's was ever sealed under it."""
    assert ward.revalidations.record(ward.keys["late-comer"]).verdict == "healthy"


def test_the_run_is_red_and_the_table_shows_the_worst_first(ward: Ward) -> None:
    assert ward.run.state is not None
    assert ward.run.state.name == "Failed"
    rows = ward.revalidations.rows(ward.run)
    ranks = [row.level.rank for row in rows]
    assert set(ward.keys.values()) <= {row.external_key_id for row in rows}
    assert ranks == sorted(ranks, reverse=True)


def test_a_revalidation_writes_nothing(ward: Ward) -> None:
    assert ward.writes == []
