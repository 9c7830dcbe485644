"""Every health rule, from its condition in the sandbox to what people read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from prefect.client.schemas.objects import FlowRun

from cmek.keys.health_rules import HEALTH_RULES
from cmek.keys.history import SIGNS, shown_time
from cmek.keys.verdicts import HealthReason, KeyRecord
from tests.support.condition_setups import ExpectedHealth, KeyCondition
from tests.support.conditions import HEALTH, KEY_CONDITIONS
from tests.support.onboarding import Onboardings
from tests.support.revalidation import Revalidations
from tests.support.staging import KEY, Stage

NEARLY = timedelta(minutes=10)
NAME, SAYS = "condition", ("condition", "expected")


def _named(one: object) -> str:
    return one.name if isinstance(one, KeyCondition) else ""


@dataclass
class Ward:
    """One revalidation of one key for each condition, each key in a project of its own."""

    revalidations: Revalidations
    keys: dict[str, Stage]
    run: FlowRun
    writes: list[str]

    def record(self, condition: KeyCondition) -> KeyRecord:
        """The last record of the key with this condition."""
        return self.revalidations.record(self.keys[condition.name].external_key_id)

    def page(self, condition: KeyCondition) -> str:
        """The page of the key with this condition."""
        return self.revalidations.page(self.keys[condition.name].external_key_id)

    def reason(self, condition: KeyCondition, rule: str) -> HealthReason:
        """The reason that this rule gave."""
        found = [one for one in self.record(condition).reasons if one.rule == rule]
        assert found, self.record(condition).reasons
        return found[0]


@pytest.fixture(scope="module")
def ward(_bench: Onboardings) -> Ward:
    """All conditions in one run; a run for each would find the same."""
    _bench.control.reset()
    world = _bench.sandbox.world
    keys = {one.name: Stage.beside(world, n) for n, one in enumerate(KEY_CONDITIONS)}
    keys[LATE_COMER.name] = Stage.beside(world, len(keys))
    for number, condition in enumerate((LATE_COMER, *KEY_CONDITIONS)):
        stage = keys[condition.name]
        condition.bring_about(stage)
        stage.attach_to_new_workspace(stage.external_key_id, f"ward-{number}")
    revalidations = Revalidations.deployed(_bench.client)
    _bench.control.clear_log()
    run = revalidations.run(external_keys=[one.external_key_id for one in keys.values()])
    return Ward(revalidations, keys, run, _bench.control.calls(write=True))


def _destroyed_before_registration(stage: Stage) -> None:
    stage.rotate()
    stage.destroy()
    with stage.days_ago(-50):
        stage.register(str(stage.name))


LATE_COMER = KeyCondition(
    "an old version was gone before the key was registered",
    _destroyed_before_registration,
    made_days_ago=60,
)


@pytest.mark.parametrize(SAYS, HEALTH, ids=_named)
def test_a_condition_gives_its_verdict_and_the_rule_says_so_first(
    ward: Ward, condition: KeyCondition, expected: ExpectedHealth
) -> None:
    """The artifact has verdict and reasons; the reason that decides is first."""
    record, page = ward.record(condition), ward.page(condition)
    assert record.verdict == expected.verdict, record.reasons
    assert f"\n## {SIGNS[record.verdict]} since " in page
    assert page.startswith("# ")
    if record.verdict != "healthy":
        assert record.worst is not None
        assert record.worst.means == record.verdict
    assert ward.reason(condition, expected.rule).benchmark == expected.benchmark


@pytest.mark.parametrize(
    NAME, [*(one for one in KEY_CONDITIONS if one.health is None), LATE_COMER], ids=_named
)
def test_what_is_no_matter_of_health_gives_no_reason(ward: Ward, condition: KeyCondition) -> None:
    """Anthropic never encrypted anything with a version that was gone before registration."""
    record = ward.record(condition)
    assert (record.verdict, record.reasons) == ("healthy", ())


@pytest.mark.parametrize(SAYS, [one for one in HEALTH if one[1].commands], ids=_named)
def test_the_page_gives_the_exact_commands_in_their_order(
    ward: Ward, condition: KeyCondition, expected: ExpectedHealth
) -> None:
    stage, page = ward.keys[condition.name], ward.page(condition)
    found = ward.reason(condition, expected.rule).commands
    for command, wanted in zip(found, expected.commands, strict=True):
        here = wanted.replace(KEY.project, stage.name.project)
        assert command == here or (here.endswith("=") and command.startswith(here))
        assert f"\n{command}\n" in page


@pytest.mark.parametrize(SAYS, [one for one in HEALTH if one[1].days_left is not None], ids=_named)
def test_a_scheduled_destruction_says_how_long_there_is_left(
    ward: Ward, condition: KeyCondition, expected: ExpectedHealth
) -> None:
    record, reason = ward.record(condition), ward.reason(condition, expected.rule)
    left = reason.time_left(record.checked_at)
    assert left is not None
    assert expected.days_left is not None
    assert abs(left - timedelta(days=expected.days_left)) < NEARLY
    row = next(r for r in ward.revalidations.rows(ward.run) if r.key_name == record.key_name)
    assert row.time_left == shown_time(left)


@pytest.mark.parametrize(SAYS, [one for one in HEALTH if one[1].days_since is not None], ids=_named)
def test_a_reason_is_dated_by_the_resource_where_that_tells(
    ward: Ward, condition: KeyCondition, expected: ExpectedHealth
) -> None:
    """The time is when it happened, not when we first saw it."""
    record, reason = ward.record(condition), ward.reason(condition, expected.rule)
    assert expected.days_since is not None
    assert reason.since is not None
    age = record.checked_at - reason.since
    assert abs(age - timedelta(days=expected.days_since)) < NEARLY


def test_every_rule_has_a_condition() -> None:
    """A new rule needs a condition; drift, which needs two checks, has its own test."""
    assert {rule.id for rule in HEALTH_RULES} - {says.rule for _, says in HEALTH} == {"drift"}


def test_the_run_is_red_and_the_table_shows_the_worst_first(ward: Ward) -> None:
    assert ward.run.state is not None
    assert ward.run.state.name == "Failed"
    rows = ward.revalidations.rows(ward.run)
    ranks = [row.level.rank for row in rows]
    staged = {one.external_key_id for one in ward.keys.values()}
    assert staged <= {row.external_key_id for row in rows}
    assert ranks == sorted(ranks, reverse=True)


def test_a_revalidation_writes_nothing(ward: Ward) -> None:
    assert ward.writes == []
