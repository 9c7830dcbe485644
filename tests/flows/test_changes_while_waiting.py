"""Facts that change between approval request and attach: a refusal, or another request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from google.cloud.kms_v1 import CryptoKey, CryptoKeyVersion

from blocks.anthropic_admin import AnthropicAdmin
from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, VIEWER
from cmek.names import organization_label
from sandbox.admin.state import GcpConfig
from tests.flows.outcomes import assert_stopped
from tests.support.kms import State
from tests.support.onboarding import Onboardings

Change = Callable[[Onboardings], None]
OTHER_ORGANIZATION = "00000000-0000-4000-8000-000000000001"
READS = {
    "organization.me",
    "workspaces.retrieve",
    "external_keys.retrieve",
    "external_keys.validate",
    "GetCryptoKey",
    "GetIamPolicy",
    "ListCryptoKeyVersions",
}


def rename_workspace(bench: Onboardings) -> None:
    bench.sandbox.world.admin.workspaces[bench.fresh].name = "renamed"


def change_organization(bench: Onboardings) -> None:
    bench.sandbox.world.admin.organization.id = OTHER_ORGANIZATION
    label, value = organization_label(UUID(OTHER_ORGANIZATION))
    change_key(bench, labels={label: value})


def change_key(bench: Onboardings, **fields: Any) -> None:
    key = CryptoKey(name=bench.key_name, **fields)
    bench.kms.grpc.update_crypto_key(crypto_key=key, update_mask={"paths": list(fields)})


def remove_label(bench: Onboardings) -> None:
    change_key(bench, labels={})


def strip_grant(bench: Onboardings, role: str) -> None:
    policy = bench.kms.policy(bench.key_name)
    kept = [binding for binding in policy.bindings if binding.role != role]
    del policy.bindings[:]
    policy.bindings.extend(kept)
    bench.kms.write(bench.key_name, policy)


def strip_encrypter(bench: Onboardings) -> None:
    strip_grant(bench, ENCRYPTER_DECRYPTER)


def strip_viewer(bench: Onboardings) -> None:
    strip_grant(bench, VIEWER)


def disable_primary(bench: Onboardings) -> None:
    bench.kms.set_state(f"{bench.key_name}/cryptoKeyVersions/1", State.DISABLED)


def schedule_old_version(bench: Onboardings) -> None:
    grpc = bench.kms.grpc
    grpc.create_crypto_key_version(parent=bench.key_name, crypto_key_version=CryptoKeyVersion())
    grpc.destroy_crypto_key_version(name=f"{bench.key_name}/cryptoKeyVersions/2")


def attach_other_key(bench: Onboardings) -> None:
    world = bench.sandbox.world
    other = world.admin.workspaces[bench.workspace("attached")].external_key_id
    world.admin.workspaces[bench.fresh].external_key_id = other


def archive(bench: Onboardings) -> None:
    workspace = bench.sandbox.world.admin.workspaces[bench.fresh]
    workspace.archived_at = bench.sandbox.world.clock.now().isoformat()


def retarget_external_key(bench: Onboardings) -> None:
    keys = bench.sandbox.world.admin.external_keys.values()
    config = next(
        k.provider_config
        for k in keys
        if isinstance(k.provider_config, GcpConfig) and k.provider_config.key_name == bench.key_name
    )
    config.key_name = bench.key_name + "-other"


def forbid_justifications(bench: Onboardings) -> None:
    change_key(bench, key_access_justifications_policy={"allowed_access_reasons": []})


def renumber_project(bench: Onboardings) -> None:
    bench.sandbox.world.kms.projects[bench.sandbox.project_id].number = "999999999999"


def variants(*changes: Change) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("change", changes, ids=lambda change: change.__name__)


@variants(
    strip_encrypter,
    retarget_external_key,
    remove_label,
    disable_primary,
    strip_viewer,
    schedule_old_version,
    attach_other_key,
    archive,
    forbid_justifications,
)
def test_what_must_not_be_attached_stops_the_run(bench: Onboardings, change: Change) -> None:
    """It is read after the response and refused with a reason, never repaired, never attached."""
    run = bench.asked()
    change(bench)
    bench.control.clear_log()
    run.approve()
    assert_stopped(run, "nothing was attached")
    assert set(bench.control.calls()) >= READS


@variants(change_organization, rename_workspace, renumber_project)
def test_another_plan_is_asked_about_again(bench: Onboardings, change: Change) -> None:
    """The difference is named in the new approval request, and its response attaches."""
    run = bench.asked()
    change(bench)
    bench.control.clear_log()
    run.approve()
    assert run.state == "Suspended", run.message
    assert "Why you are asked again" in run.text()
    assert bench.writes() == []
    assert set(bench.control.calls()) >= READS
    run.approve()
    assert run.state == "Attached", run.message


def test_another_endpoint_in_the_block_is_asked_about_again(bench: Onboardings) -> None:
    """The block is read again after the response, and its address is under the digest."""
    run = bench.asked()
    sandbox = bench.sandbox
    block = AnthropicAdmin(base_url=sandbox.http, admin_key=sandbox.admin_key)
    elsewhere = sandbox.http.replace("127.0.0.1", "localhost")
    block.model_copy(update={"base_url": elsewhere}).save("anthropic-admin", overwrite=True)
    try:
        run.approve()
    finally:
        block.save("anthropic-admin", overwrite=True)
    assert run.state == "Suspended", run.message
    assert "admin" in run.text().partition("Why you are asked again")[2]
    assert bench.attaches() == []


def test_a_rotation_while_waiting_does_not_void_the_approval(bench: Onboardings) -> None:
    run = bench.asked()
    grpc = bench.kms.grpc
    made = grpc.create_crypto_key_version(
        parent=bench.key_name, crypto_key_version=CryptoKeyVersion()
    )
    number = made.name.rpartition("/")[2]
    grpc.update_crypto_key_primary_version(name=bench.key_name, crypto_key_version_id=number)
    run.approve()
    assert run.state == "Attached", run.message


def test_a_second_run_for_the_workspace_ends_as_a_duplicate(bench: Onboardings) -> None:
    """It names the run that has the workspace, and makes no outside call."""
    first = bench.asked()
    bench.control.clear_log()
    second = bench.start().execute()
    assert second.state == "Duplicate"
    assert str(first.id) in second.message
    assert bench.control.calls() == []
    first.approve()
    assert first.state == "Attached"
    assert len(bench.attaches()) == 1


@pytest.mark.prove
def test_a_validation_that_took_too_long_is_made_again(bench: Onboardings) -> None:
    """A validation is valid for a minute; a slow read after it does not void the approval."""
    run = bench.asked()
    bench.control.clear_log()
    bench.control.switches(validate_seconds=22)
    bench.control.fault("external_keys.retrieve", kind="delay", seconds=21, times=2)
    run.approve()
    assert run.state == "Attached", run.message
    assert bench.control.calls().count("external_keys.validate") == 2
