"""Every failure of the table, set up in the sandbox: the right cause comes first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from google.cloud import kms_v1

from cmek.keys.diagnosis import CAUSES, diagnose, gather_facts
from cmek.keys.rules import Cause, DiagnosisFacts
from sandbox.server import Sandbox
from tests.support.causes import FAILURES, Failing
from tests.support.checking import clients, failure, request
from tests.support.staging import EXTERNAL_KEY, Stage
from tests.support.troubleshooting import DOCUMENT, failure_row

pytestmark = pytest.mark.anyio


@pytest.fixture
def stage(sandbox: Sandbox) -> Stage:
    """A healthy key, registered at Anthropic."""
    stage = Stage(sandbox.world)
    stage.reset()
    stage.key()
    return stage


async def gathered(sandbox: Sandbox, **known: Any) -> DiagnosisFacts:
    """All that our own reads say; `known` is about the failure."""
    async with clients(sandbox) as ours:
        return await gather_facts(
            request(), failure(**known), admin=ours.admin, kms=ours.kms, google=ours.google
        )


async def diagnosed(sandbox: Sandbox, **known: Any) -> tuple[Cause, ...]:
    """The diagnosis by our own reads."""
    return diagnose(await gathered(sandbox, **known))


@pytest.mark.parametrize("failing", FAILURES, ids=lambda one: one.name)
async def test_the_right_cause_comes_first_with_its_command_and_nothing_is_written(
    sandbox: Sandbox, stage: Stage, failing: Failing
) -> None:
    """One cause is proved (or is the likeliest open one), and no call writes."""
    failing.setup(stage)
    stage.world.log.clear()
    causes = await diagnosed(sandbox, **failing.failure)
    first = causes[0]
    assert (first.id, first.verdict) == (failing.cause, failing.verdict), first
    assert failing.command in first.command, first
    assert [one.id for one in causes if one.verdict == "proved"] == (
        [failing.cause] if failing.verdict == "proved" else []
    )
    assert [entry for entry in stage.world.log.entries if entry.write] == []
    assert failure_row(failing, first) in DOCUMENT.read_text()


@pytest.mark.parametrize("failing", [one for one in FAILURES if one.validation_fails],
                         ids=lambda one: one.name)  # fmt: skip
async def test_the_sandbox_refuses_what_the_table_calls_a_failure(
    sandbox: Sandbox, stage: Stage, failing: Failing
) -> None:
    """The table's states are such that Anthropic's stand-in can't use the key."""
    failing.setup(stage)
    async with clients(sandbox) as ours:
        validation = await ours.admin.external_keys.validate(EXTERNAL_KEY)
    assert not validation.succeeded


async def test_a_healthy_key_has_no_proved_cause(sandbox: Sandbox, stage: Stage) -> None:
    """What we can't read stays open; everything else is excluded."""
    causes = await diagnosed(sandbox)
    assert {one.id for one in causes if one.verdict != "excluded"} == {
        "deny_policy",
        "anthropic_side",
    }


async def test_what_may_not_be_read_leaves_its_causes_open(sandbox: Sandbox, stage: Stage) -> None:
    """Without any right on Google's side no cause there is excluded on faith."""
    stage.world.identities.administrator.permissions = frozenset()
    causes = await diagnosed(sandbox)
    excluded = {one.id for one in causes if one.verdict == "excluded"}
    assert excluded == {
        "workspace_policy", "key_profile", "external_key_changed", "external_key_gone",
        "other_key_name", "wrong_location", "kms_api_off",
    }  # fmt: skip
    assert all(one.verdict != "proved" for one in causes)


async def test_the_free_text_of_a_validation_changes_nothing(
    sandbox: Sandbox, stage: Stage
) -> None:
    """The facts have no place for Anthropic's text; the same state gives the same causes."""
    first = await diagnosed(sandbox, request_id="req_1")
    second = await diagnosed(sandbox, request_id="req_2")
    assert [(one.id, one.verdict) for one in first] == [(one.id, one.verdict) for one in second]


async def test_a_key_that_lies_elsewhere_is_proved_wrong_by_its_name(
    sandbox: Sandbox, stage: Stage
) -> None:
    """Our form refuses such a name, so only a key that others registered can have it."""
    facts = await gathered(sandbox)
    for location in ("us", "global", "europe-west1"):
        elsewhere = facts.request.model_copy(update={"location": location})
        (cause,) = [
            one for one in diagnose(replace(facts, request=elsewhere)) if one.id == "wrong_location"
        ]
        assert (cause.verdict, location in cause.why) == ("proved", True)
        assert "us-east5" in cause.command


async def test_a_key_of_an_external_key_manager_leaves_its_backend_open(
    sandbox: Sandbox, stage: Stage
) -> None:
    """Cloud KMS can't tell us whether what lies outside works."""
    stage.stored_key.version_template.protection_level = kms_v1.ProtectionLevel(
        kms_v1.ProtectionLevel.EXTERNAL_VPC
    )
    (cause,) = [one for one in await diagnosed(sandbox) if one.id == "outside_backend"]
    assert (cause.verdict, "EXTERNAL_VPC" in cause.why) == ("open", True)


def test_the_table_proves_every_cause_that_can_be_proved() -> None:
    """At least 14 causes; each of them comes first in some state of the table."""
    known = {one.id for one, _ in CAUSES}
    assert len(known) == len(CAUSES) >= 14
    assert {one.cause for one in FAILURES} == known - {"wrong_location", "outside_backend"}
