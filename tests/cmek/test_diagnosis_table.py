"""Every failure of the table, set up in the sandbox: the correct cause comes first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cmek.anthropic_identity import MEMBER
from cmek.keys.diagnosis import CAUSES, diagnose, gather_facts
from cmek.keys.rules import Cause, DiagnosisFacts
from sandbox.server import Sandbox
from tests.support.checking import clients, failure, request
from tests.support.condition_setups import KeyCondition, Situation, constraint
from tests.support.conditions import CONDITIONS, DIAGNOSED
from tests.support.staging import EXTERNAL_KEY, Stage
from tests.support.troubleshooting import DOCUMENT, cause_row

pytestmark = pytest.mark.anyio
EXAMINED = [one for one in CONDITIONS if one.cause or isinstance(one, KeyCondition)]
UNREADABLE = {"deny_policy", "anthropic_side"}
"""Causes that stay open, whatever we read."""


async def gathered(sandbox: Sandbox, **known: Any) -> DiagnosisFacts:
    """The facts from our own reads; `known` describes the failure."""
    async with clients(sandbox) as ours:
        return await gather_facts(request(), failure(**known), ours)


async def diagnosed(sandbox: Sandbox, **known: Any) -> tuple[Cause, ...]:
    """The diagnosis from our own reads."""
    return diagnose(await gathered(sandbox, **known))


@pytest.mark.parametrize("condition", EXAMINED, ids=lambda one: one.name)
async def test_the_right_cause_comes_first_with_its_command_and_nothing_is_written(
    sandbox: Sandbox, stage: Stage, condition: Situation
) -> None:
    """One cause is proved (or is the likeliest open one), and no call writes.

    A fault of a key that makes no validation fail changes nothing in the diagnosis.
    """
    condition.bring_about(stage, registered=True)
    stage.world.log.clear()
    expected = condition.cause
    causes = await diagnosed(sandbox, **(expected.failure if expected else {}))
    proved = [one.id for one in causes if one.verdict == "proved"]
    assert [entry for entry in stage.world.log.entries if entry.write] == []
    if expected is None:
        assert proved == []
        assert {one.id for one in causes if one.verdict == "open"} == UNREADABLE
        return
    first = causes[0]
    assert (first.id, first.verdict) == (expected.id, expected.verdict), first
    assert expected.command in first.command, first
    assert proved == ([expected.id] if expected.verdict == "proved" else [])
    assert cause_row(condition, first) in DOCUMENT.read_text()


@pytest.mark.parametrize(
    "condition", [one for one, says in DIAGNOSED if says.validation_fails], ids=lambda one: one.name
)
async def test_the_sandbox_refuses_what_the_table_calls_a_failure(
    sandbox: Sandbox, stage: Stage, condition: Situation
) -> None:
    """In these states of the table the sandbox's Anthropic cannot use the key."""
    condition.bring_about(stage, registered=True)
    async with clients(sandbox) as ours:
        validation = await ours.admin.external_keys.validate(EXTERNAL_KEY)
    assert not validation.succeeded


async def test_a_healthy_key_has_no_proved_cause(sandbox: Sandbox, stage: Stage) -> None:
    """A cause that we cannot read stays open; every other one is excluded."""
    stage.key()
    causes = await diagnosed(sandbox)
    assert {one.id for one in causes if one.verdict != "excluded"} == UNREADABLE


async def test_what_may_not_be_read_leaves_its_causes_open(sandbox: Sandbox, stage: Stage) -> None:
    """Without any permission at Google no cause there is excluded without a read."""
    stage.key()
    stage.world.identities.administrator.permissions = frozenset()
    causes = await diagnosed(sandbox)
    excluded = {one.id for one in causes if one.verdict == "excluded"}
    assert excluded == {
        "workspace_policy", "key_profile", "external_key_changed", "external_key_gone",
        "other_key_name", "wrong_location", "kms_api_off",
    }  # fmt: skip
    assert all(one.verdict != "proved" for one in causes)


@pytest.mark.parametrize(
    ("blocks", "readable", "verdict"),
    [
        ("all_but_anthropic", True, "open"),
        ("all_but_anthropic", False, "open"),
        ("everybody", False, "open"),
        ("everybody", True, "proved"),
    ],
)
async def test_a_perimeter_that_refuses_our_own_read_is_proved_by_its_rules_only(
    sandbox: Sandbox, stage: Stage, blocks: str, readable: bool, verdict: str
) -> None:
    """It may let Anthropic in: then its validation succeeds while we can read nothing."""
    stage.key()
    constraint(perimeter_blocks=blocks)(stage)
    if not readable:
        stage.deny("accesscontextmanager.policies.list")
    (cause,) = [one for one in await diagnosed(sandbox) if one.id == "perimeter"]
    assert (cause.verdict, MEMBER in cause.command) == (verdict, True), cause
    async with clients(sandbox) as ours:
        validation = await ours.admin.external_keys.validate(EXTERNAL_KEY)
    assert validation.succeeded == (blocks == "all_but_anthropic")


async def test_a_request_id_changes_no_verdict(sandbox: Sandbox, stage: Stage) -> None:
    """The same state gives the same causes in the same order."""
    stage.key()
    first = await diagnosed(sandbox, request_id="req_1")
    second = await diagnosed(sandbox, request_id="req_2")
    assert [(one.id, one.verdict) for one in first] == [(one.id, one.verdict) for one in second]


async def test_a_key_in_another_location_is_proved_wrong_by_its_name(
    sandbox: Sandbox, stage: Stage
) -> None:
    """Our form refuses such a name, so only a key that others registered can have it."""
    stage.key()
    facts = await gathered(sandbox)
    for location in ("us", "global", "europe-west1"):
        elsewhere = facts.request.model_copy(update={"location": location})
        (cause,) = [
            one for one in diagnose(replace(facts, request=elsewhere)) if one.id == "wrong_location"
        ]
        assert (cause.verdict, location in cause.why) == ("proved", True)
        assert "us-east5" in cause.command


def test_the_table_proves_every_cause_that_can_be_proved() -> None:
    """At least 14 causes; each of them comes first in some state of the table."""
    known = {one.id for one, _ in CAUSES}
    assert len(known) == len(CAUSES) >= 14
    assert {says.id for _, says in DIAGNOSED} == known - {"wrong_location"}
