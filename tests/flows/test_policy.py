"""The policy of a run: it is read once and pinned, and a later change is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blocks.onboarding_policy import OnboardingPolicy
from cmek.keys.prerequisites import CATALOGUE
from cmek.onboarding.plan import possible_titles
from cmek.onboarding.policy import DEFAULT_POLICY
from tests.flows.outcomes import assert_stopped
from tests.support.command import exit_code
from tests.support.onboarding import Onboardings
from tests.support.requests import LENIENT


def save(name: str, **settings: Any) -> None:
    OnboardingPolicy(**settings).save(name, overwrite=True)


def test_an_override_that_the_policy_does_not_allow_stops_before_any_outside_call(
    bench: Onboardings,
) -> None:
    save("strict", may_override=())
    run = bench.start(policy="strict", location="us-central1").execute()
    assert_stopped(run, "overrides.location", "us-central1", "'strict'")
    assert bench.control.log() == []


def test_a_missing_policy_is_named_before_any_outside_call(bench: Onboardings) -> None:
    run = bench.start(policy="nowhere").execute()
    assert_stopped(run, "onboarding-policy/nowhere", "Blocks")
    assert bench.control.log() == []


def test_a_policy_that_is_not_valid_is_named_with_its_field_before_any_outside_call(
    bench: Onboardings,
) -> None:
    """The server does not run validators: anybody with access to its API can store this."""
    save("broken")
    client = bench.client
    slug = OnboardingPolicy.get_block_type_slug()
    document = client.read_block_document_by_name("broken", slug)
    data = {"data": {"location": "mars"}}
    client.request("PATCH", "/block_documents/{id}", path_params={"id": document.id}, json=data)
    run = bench.start(policy="broken").execute()
    assert_stopped(run, "onboarding-policy/broken", "location", "us-east5")
    assert bench.control.log() == []


def test_a_policy_edited_while_the_run_waits_changes_nothing_and_is_asked_about(
    bench: Onboardings,
) -> None:
    """The run keeps the policy of its start; the approver is shown that it has changed."""
    save("edited", key_ring="as-started")
    run = bench.asked(policy="edited")
    save("edited", key_ring="edited-later", four_eyes=False)
    run.approve()
    assert run.state == "Suspended", run.message
    said = run.text().replace("\\", "")
    assert "The policy has changed since this run started" in said
    assert "key_ring was 'as-started', is 'edited-later'" in said
    # `cmek approve` marks a title that it does not know
    assert set(run.approval_request.plan.warning_titles) <= set(possible_titles(CATALOGUE))
    run.approve()
    assert run.state == "Attached", run.message
    assert "keyRings/as-started/" in run.message
    rings = {name.rpartition("/")[2] for name in bench.sandbox.world.kms.key_rings}
    assert "as-started" in rings
    assert "edited-later" not in rings


def test_a_policy_deleted_while_the_run_waits_is_asked_about(bench: Onboardings) -> None:
    save("deleted")
    run = bench.asked(policy="deleted")
    OnboardingPolicy.delete("deleted")
    run.approve()
    assert run.state == "Suspended", run.message
    assert "its block can't be loaded any more" in run.text().replace("\\", "")


@pytest.mark.parametrize(
    "command",
    [
        ["status", "--live", "wrkspc_01Some"],
        ["leftovers"],
        ["terraform", "--all", "--out", "."],
        ["drill", "wrkspc_01Some", "--confirm", "wrkspc_01Some"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_reads_with_the_blocks_that_the_policy_names(
    bench: Onboardings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: list[str],
) -> None:
    """A team names the blocks once, in the policy; an option names another."""
    monkeypatch.chdir(tmp_path)
    bench.asked().approve(decision="reject")  # so that something is left over
    save(DEFAULT_POLICY, anthropic_block="of-the-policy", may_override=())
    try:
        named = {"of-the-policy": [], "of-the-option": ["--anthropic-block", "of-the-option"]}
        for name, option in named.items():
            assert exit_code(*command, *option) == 1
            assert f"block anthropic-admin/{name} can't be used" in capsys.readouterr().err
    finally:
        save(DEFAULT_POLICY, **dict(LENIENT))


def test_an_edit_that_matters_to_no_value_of_the_run_is_not_asked_about(
    bench: Onboardings,
) -> None:
    save("widened")
    run = bench.asked(policy="widened")
    save("widened", may_override=("location", "four_eyes"))
    assert run.approve().state == "Attached", run.message


def test_a_key_is_named_after_its_workspace_when_the_policy_says_so(bench: Onboardings) -> None:
    save("named", crypto_key="{workspace_name}-{workspace_id}")
    run = bench.asked(policy="named")
    assert f"cryptoKeys/payments-prod-{bench.fresh}" in run.text().replace("\\", "")


def test_the_policy_command_marks_what_the_guide_does_not_recommend(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    save("loose", protection_level="SOFTWARE", may_override=("location",))

    def printed(*arguments: str) -> str:
        assert exit_code("policy", "show", *arguments) == 0
        return capsys.readouterr().out

    facts = json.loads(printed("loose", "--json"))
    assert facts["settings"]["protection_level"] == "SOFTWARE"
    assert facts["may_override"] == ["location"]
    assert set(facts["recommended_instead"]) == {"protection_level", "may_override"}
    shown = printed("loose").splitlines()
    marked = next(n for n, line in enumerate(shown) if line.split() == ["!", "protection_level"])
    values = [line.strip() for line in shown[marked + 1 : marked + 3]]
    assert values == ["value: SOFTWARE", "guide: HSM"]
