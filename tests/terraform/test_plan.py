"""Terraform adopts what an onboarding made without changing it, and sees later changes."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER
from cmek.evidence.report import threats_filter
from cmek.names import KeyName, in_use_label, organization_label
from cmek.terraform.module import IMPORTS, VARIABLES, render_module, write_module
from tests.terraform.command import needs_terraform
from tests.terraform.conftest import Bench
from tests.terraform.provider import stand_in

pytestmark = needs_terraform

RING = 'google_kms_key_ring.cmek["acme-kms-prod/us-east5/anthropic-cmek"]'


def address(key: str, kind: str = "google_kms_crypto_key.cmek") -> str:
    """Address of a key, or of another resource of the key."""
    return f'{kind}["acme-kms-prod/us-east5/anthropic-cmek/{key}"]'


def adopted(*keys: str) -> dict[str, list[str]]:
    """A plan that only imports the ring, these keys and both grants of each."""
    kinds = (
        "google_kms_crypto_key.cmek",
        *(f"google_kms_crypto_key_iam_member.{one}" for one in ("encrypter_decrypter", "viewer")),
    )
    return {RING: ["no-op", "import"]} | {
        address(key, kind): ["no-op", "import"] for key in keys for kind in kinds
    }


def test_a_fresh_onboarding_is_adopted_with_zero_changes(bench: Bench) -> None:
    """Ring, key and both grants are imported; nothing is added, changed or destroyed."""
    workspace = bench.rig.fresh_workspace()
    bench.onboard(workspace)
    bench.export(workspace)
    assert bench.terraform.plan() == adopted("claude")
    bench.terraform.run("apply", "-auto-approve", "plan")
    bench.rig.control.clear_log()
    assert bench.terraform.plan() == {}
    assert bench.rig.calls(write=True) == []


def test_an_adopted_key_keeps_its_own_values(bench: Bench) -> None:
    """A software key with its own labels, destroy delay and no rotation needs no change either."""
    label, value = organization_label(bench.rig.sandbox.organization_id)
    bench.onboard(
        bench.rig.fresh_workspace(),
        protection_level="SOFTWARE",
        rotation_period=None,
        destroy_scheduled_duration=timedelta(days=1),
        labels={label: value, "team": "payments", "cost-center": "42"},
    )
    bench.export()
    assert bench.terraform.plan() == adopted("claude")
    assert bench.terraform.planned(address("claude"))["labels"]["team"] == "payments"


def test_labels_are_values_and_never_templates(bench: Bench) -> None:
    """Somebody who may label the key cannot make the plan compute anything, or fail."""
    label, value = organization_label(bench.rig.sandbox.organization_id)
    name = bench.onboard(bench.rig.fresh_workspace(), labels={label: value})
    odd = {"clé": "été", "a": "${timestamp()}", "b": '%{ if true }"x"', "c": "$${d}"}
    world = bench.rig.sandbox.world
    with world.lock:  # Cloud KMS refuses such values today; they are written without its checks
        world.kms.crypto_keys[name].labels.update(odd)
    bench.export()
    assert bench.terraform.plan() == adopted("claude")
    assert bench.terraform.planned(address("claude"))["labels"] == odd | {label: value}


def test_a_shared_key_is_exported_once_with_all_its_workspaces(bench: Bench) -> None:
    """The key of two workspaces is imported once; the outputs name both workspaces."""
    one, other = bench.new_workspace("one"), bench.new_workspace("other")
    name = bench.onboard(one, other)
    bench.export(one)
    assert bench.terraform.plan() == adopted("claude")
    bench.terraform.run("apply", "-auto-approve", "plan")
    outputs = bench.terraform.run("output", "-json", "workspace_keys")
    assert outputs.count(name) == 2
    assert one in outputs
    assert other in outputs


def test_one_module_holds_many_workspaces_and_takes_in_another(bench: Bench) -> None:
    """All keys in one ring; after one more onboarding only the new key is imported."""
    for number in range(3):
        bench.onboard(bench.new_workspace(f"team {number}"), key=f"key-{number}")
    bench.export()
    assert bench.terraform.plan() == adopted("key-0", "key-1", "key-2")
    bench.terraform.run("apply", "-auto-approve", "plan")
    bench.onboard(bench.new_workspace("late"), key="late")
    bench.export()
    assert bench.terraform.plan().keys() == adopted("late").keys() - {RING}


def _lose_grant(bench: Bench, name: str) -> None:
    """Anthropic loses its right to encrypt and decrypt."""
    world = bench.rig.sandbox.world
    with world.lock:
        bindings = world.kms.policies[name].policy.bindings
        del bindings[[one.role for one in bindings].index(ENCRYPTER_DECRYPTER)]


async def _add_label(bench: Bench, name: str, label: str, value: str) -> None:
    async with bench.rig.kms() as kms:
        await kms.add_label(name, label, value)


def test_a_changed_live_value_shows_in_the_next_plan(bench: Bench) -> None:
    """A rotation, a label or a grant that was changed outside is named, and nothing else is."""
    name = bench.onboard(bench.rig.fresh_workspace())
    bench.export()
    bench.terraform.plan()
    bench.terraform.run("apply", "-auto-approve", "plan")
    world = bench.rig.sandbox.world
    with world.lock:
        world.kms.crypto_keys[name].rotation_period = timedelta(days=365)
    assert bench.terraform.plan() == {address("claude"): ["update"]}
    assert bench.terraform.planned(address("claude"))["rotation_period"] == "7776000s"
    with world.lock:
        world.kms.crypto_keys[name].rotation_period = timedelta(days=90)
        label, _ = organization_label(bench.rig.sandbox.organization_id)
        world.kms.crypto_keys[name].labels[label] = "false"
    assert bench.terraform.plan() == {address("claude"): ["update"]}
    with world.lock:
        world.kms.crypto_keys[name].labels[label] = "true"
    _lose_grant(bench, name)
    grant = address("claude", "google_kms_crypto_key_iam_member.encrypter_decrypter")
    assert bench.terraform.plan() == {grant: ["create"]}
    bench.terraform.run("apply", "-auto-approve", "plan")
    assert bench.terraform.plan() == {}


def test_a_label_that_another_tool_adds_is_left_alone(bench: Bench) -> None:
    """The label of the next workspace on a shared key is not a difference."""
    name = bench.onboard(bench.rig.fresh_workspace())
    bench.export()
    bench.terraform.plan()
    bench.terraform.run("apply", "-auto-approve", "plan")
    asyncio.run(_add_label(bench, name, *in_use_label("wrkspc_01another")))
    assert bench.terraform.plan() == {}


def test_a_value_that_was_only_asked_for_would_replace_the_key_and_is_refused(bench: Bench) -> None:
    """So the module has live values: another destroy delay means a new key, which is forbidden."""
    bench.onboard(bench.rig.fresh_workspace())
    bench.export()
    variables = bench.terraform.folder / VARIABLES
    text = variables.read_text()
    assert '"2592000s"' in text
    variables.write_text(text.replace('"2592000s"', '"86400s"'))
    assert "prevent_destroy" in bench.terraform.run("plan", fails=True)


def test_nothing_is_destroyed_even_when_asked_to(bench: Bench) -> None:
    """`destroy`, and leaving the key out of the variables, are both refused."""
    bench.onboard(bench.rig.fresh_workspace())
    bench.export()
    bench.terraform.plan()
    bench.terraform.run("apply", "-auto-approve", "plan")
    assert "prevent_destroy" in bench.terraform.run("destroy", "-auto-approve", fails=True)
    (bench.terraform.folder / VARIABLES).write_text('{"keys": {}}')
    (bench.terraform.folder / IMPORTS).unlink()
    assert "prevent_destroy" in bench.terraform.run("plan", fails=True)


def test_with_the_true_providers_labels_the_first_apply_writes_nothing(bench: Bench) -> None:
    """Provider 5 and later imports no labels: the first plan shows them, and only them.

    Applying that sends nothing to Google, and then nothing is left to do.
    """
    bench.onboard(bench.rig.fresh_workspace())
    with stand_in(bench.rig.sandbox.http, labels_on_import=False) as bench.terraform.reattach:
        bench.export()
        plan = bench.terraform.plan()
        assert plan == adopted("claude") | {address("claude"): ["update", "import"]}
        bench.rig.control.clear_log()
        bench.terraform.run("apply", "-auto-approve", "plan")
        assert bench.rig.calls(write=True) == []
        assert bench.terraform.plan() == {}


def test_the_options_add_service_audit_logs_and_an_alert(bench: Bench) -> None:
    """They are off by default; turned on, they only add, and the alert has our query's filter.

    They are in a file that the export does not write, so a new export keeps them.
    """
    name = bench.onboard(bench.rig.fresh_workspace())
    bench.export()
    (bench.terraform.folder / "terraform.tfvars").write_text(
        "enable_kms_service = true\nenable_audit_logs  = true\nenable_alert       = true\n"
    )
    bench.export()
    alert = address("claude", "google_monitoring_alert_policy.key_threatened")
    plan = bench.terraform.plan()
    assert plan == adopted("claude") | {
        'google_project_service.cloudkms["acme-kms-prod"]': ["create"],
        'google_project_iam_audit_config.cloudkms["acme-kms-prod"]': ["create"],
        alert: ["create"],
    }
    condition = bench.terraform.planned(alert)["conditions"][0]["condition_matched_log"][0]
    assert condition["filter"] == threats_filter(KeyName.parse(name))


@pytest.mark.parametrize("number", [50, 51, 1000])
def test_the_alert_of_a_key_of_many_workspaces_is_one_that_monitoring_takes(
    bench: Bench, number: int
) -> None:
    """Cloud Monitoring refuses a documentation of more than 8,192 characters."""
    bench.onboard(bench.rig.fresh_workspace())
    (key,) = bench.read()
    workspaces = tuple(f"wrkspc_{one:024}" for one in range(number))
    shared = key.model_copy(update={"workspaces": workspaces})
    write_module(render_module([shared]), bench.terraform.folder)
    bench.terraform.run("init", "-input=false")
    (bench.terraform.folder / "terraform.tfvars").write_text("enable_alert = true\n")
    bench.terraform.plan()
    alert = address("claude", "google_monitoring_alert_policy.key_threatened")
    text = bench.terraform.planned(alert)["documentation"][0]["content"]
    assert len(text) <= 8192
    assert all(one in text for one in workspaces[:50])
    assert text.count("wrkspc_") == 50
    more = number - 50
    assert (f" and {more} more need" in text) is (more > 0)


def test_a_lost_grant_is_not_imported_but_put_back(bench: Bench) -> None:
    """An import of a missing grant would fail; the plan adds it instead."""
    name = bench.onboard(bench.rig.fresh_workspace())
    _lose_grant(bench, name)
    bench.export()
    grant = address("claude", "google_kms_crypto_key_iam_member.encrypter_decrypter")
    assert bench.terraform.plan() == adopted("claude") | {grant: ["create"]}
