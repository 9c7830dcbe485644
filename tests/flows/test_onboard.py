"""Onboarding from start to end, and what it changes in the outside world."""

from __future__ import annotations

import pytest

from tests.support.onboarding import Onboardings
from tests.support.sandbox import admin_call


@pytest.mark.server
def test_a_fresh_workspace_ends_with_its_key(bench: Onboardings) -> None:
    """Five writes in the guide's order, then the two marks: evidence tag and key label."""
    run = bench.asked()
    assert bench.attaches() == []
    run.approve()
    assert run.state == "Attached", run.message
    assert bench.writes() == [
        "CreateKeyRing",
        "CreateCryptoKey",
        "SetIamPolicy",
        "external_keys.create",
        "workspaces.update",
        "workspaces.update",  # the tag with the evidence's hash
        "UpdateCryptoKey",  # the label that says who depends on the key
    ]
    assert len(bench.attaches()) == 1


def test_without_marks_the_key_is_left_alone(bench: Onboardings) -> None:
    bench.asked(mark_key=False).approve()
    assert "UpdateCryptoKey" not in bench.writes()


def test_invariant_5_a_rerun_reads_validates_and_writes_nothing(bench: Onboardings) -> None:
    """Any number of reruns; the evidence of the first run stays the newest."""
    bench.asked().approve()
    for _ in range(2):
        bench.control.clear_log()
        again = bench.start().execute()
        assert again.state == "Already attached", again.message
        assert bench.writes() == []
        assert "external_keys.validate" in bench.control.calls()
        assert not [one for one in bench.artifacts(again) if "evidence" in (one.key or "")]


def test_a_rejection_ends_the_run_as_rejected(bench: Onboardings) -> None:
    run = bench.asked().approve(decision="reject", comment="not this week")
    assert run.state == "Rejected"
    assert "not this week" in run.message
    assert bench.attaches() == []


def test_a_workspace_that_has_the_crypto_key_by_another_registration_is_named(
    bench: Onboardings,
) -> None:
    """Two runs at once can register a key twice; the data of both is under the one crypto key."""
    run = bench.asked()
    admin = bench.sandbox.world.admin
    registered = admin.external_keys[run.approval_request.plan.external_key_id]
    config = registered.provider_config.model_dump(mode="json")
    again = admin_call(bench.sandbox, "POST", "external_keys", {"provider_config": config})
    other = bench.workspace("default")
    admin.workspaces[other].external_key_id = again["id"]
    run.approve()
    assert run.state == "Suspended", run.message
    assert run.approval_request.plan.other_workspaces == (other,)
