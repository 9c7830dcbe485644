"""Requests that must not be carried out are refused before anything is made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.cloud.kms_v1 import CryptoKey

from cmek.anthropic_identity import MEMBER
from cmek.onboarding.plan import ADOPTION_TITLE
from cmek.onboarding.request import OnboardingForm
from flows.onboard import NoDeploymentError, onboard_workspace
from tests.flows.outcomes import assert_stopped
from tests.support.kept import forget_made_keys
from tests.support.kms import Level, Purpose
from tests.support.onboarding import Onboardings
from tests.support.requests import REQUESTER

RING = "projects/acme-kms-prod/locations/us-east5/keyRings/anthropic-cmek"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("archived", "was archived"),
        ("default", "is the default workspace"),
        ("attached", "already has another key"),
    ],
)
def test_a_workspace_that_can_not_get_this_key_is_refused(
    bench: Onboardings, state: str, says: str
) -> None:
    run = bench.start(bench.workspace(state)).execute()
    assert_stopped(run, says, bench.workspace(state))


def test_the_default_workspace_can_be_allowed(bench: Onboardings) -> None:
    run = bench.start(bench.workspace("default"), allow_default_workspace=True).execute()
    assert run.state == "Suspended", run.message
    assert "It is the default workspace" in run.text()


def test_another_workspace_is_not_called_the_default_one(bench: Onboardings) -> None:
    """Under a policy that allows the default workspace, too."""
    run = bench.asked(allow_default_workspace=True)
    assert "default workspace:" not in run.text().replace("allow default workspace:", "")
    assert run.approval_request.plan.workspace_is_default is False


def test_an_unknown_workspace_is_named(bench: Onboardings) -> None:
    run = bench.start("wrkspc_01NoSuchWorkspace11111111").execute()
    assert_stopped(run, "anthropic-admin")


def test_another_organization_than_expected_is_refused(bench: Onboardings) -> None:
    """A credential of the wrong organization is found by the first call."""
    other = "00000000-0000-4000-8000-000000000001"
    run = bench.start(expected_organization=other).execute()
    assert_stopped(run, other)


def test_a_missing_block_is_named(bench: Onboardings) -> None:
    run = bench.start(kms_block="nowhere").execute()
    assert_stopped(run, "google-kms/nowhere")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"purpose": Purpose.MAC, "version_template": {"algorithm": 32}}, "mac"),
        ({"version_template": {"protection_level": Level.SOFTWARE}}, "protection level"),
    ],
    ids=["purpose", "protection level"],
)
def test_a_key_that_does_not_fit_is_refused_and_left_alone(
    bench: Onboardings, fields: dict[str, Any], says: str
) -> None:
    kms = bench.kms
    kms.ring("anthropic-cmek")
    kms.key(bench.fresh, ring=RING, **fields)
    bench.control.clear_log()
    run = bench.start(adopt_existing_key=True).execute()
    assert run.state == "Failed"
    assert says in run.message.lower()
    assert bench.writes() == []


def _foreign_key(bench: Onboardings, *, new_ring: bool = True) -> None:
    kms = bench.kms
    if new_ring:
        kms.ring("anthropic-cmek")
    hsm = {"protection_level": Level.HSM}
    key = kms.key(bench.fresh, ring=RING, version_template=hsm, labels={"team": "data"})
    kms.grant(key.name, "roles/cloudkms.cryptoKeyDecrypter", "user:someone@example.com")
    bench.control.clear_log()


def test_a_foreign_key_is_not_touched(bench: Onboardings) -> None:
    """A key without our label may protect other data: its users are named."""
    _foreign_key(bench)
    run = bench.start().execute()
    assert_stopped(run, "user:someone@example.com", "adopt_existing_key")


def test_an_adoption_writes_nothing_to_the_key_before_an_approval_names_its_users(
    bench: Onboardings,
) -> None:
    """Then label and grants are added; labels and bindings of others stay."""
    _foreign_key(bench)
    run = bench.asked(adopt_existing_key=True)
    assert bench.writes() == ["external_keys.create"]
    assert "user:someone@example.com" in run.text()
    assert ADOPTION_TITLE in run.text()
    run.approve()
    assert run.state == "Attached", run.message
    key = bench.kms.grpc.get_crypto_key(name=bench.key_name)
    assert key.labels["team"] == "data"
    bindings = {b.role: list(b.members) for b in bench.kms.policy(bench.key_name).bindings}
    assert bindings["roles/cloudkms.cryptoKeyDecrypter"] == ["user:someone@example.com"]
    assert bindings["roles/cloudkms.viewer"] == [MEMBER]


@pytest.mark.parametrize(
    "answer",
    [
        {"decision": "reject"},
        {"approver": REQUESTER},
    ],
    ids=["rejected", "by the requester"],
)
def test_a_response_that_permits_no_adoption_leaves_the_key_untouched(
    bench: Onboardings, answer: dict[str, Any]
) -> None:
    """A response that refuses an attach refuses label and grants, too."""
    _foreign_key(bench)
    run = bench.asked(adopt_existing_key=True)
    run.approve(**answer)
    assert run.state != "Attached"
    assert bench.writes() == ["external_keys.create"]


def test_an_adoption_of_a_key_that_was_attached_meanwhile_says_so(bench: Onboardings) -> None:
    """Somebody else attached it while the run waited: the refusal must not deny that."""
    _foreign_key(bench)
    run = bench.asked(adopt_existing_key=True)
    admin = bench.sandbox.world.admin
    admin.workspaces[bench.fresh].external_key_id = tuple(admin.external_keys)[-1]
    bench.control.clear_log()
    run.approve()
    assert_stopped(run, "the workspace has this key already (Retry checks it)")
    assert bench.writes() == []


def test_a_user_who_is_added_while_an_adoption_waits_is_named_before_anything_is_written(
    bench: Onboardings,
) -> None:
    _foreign_key(bench)
    run = bench.asked(adopt_existing_key=True)
    bench.kms.grant(bench.key_name, "roles/cloudkms.cryptoKeyDecrypter", "user:eve@example.com")
    bench.control.clear_log()
    run.approve()
    assert run.state == "Suspended", run.message
    assert "user:eve@example.com" in run.text()
    assert bench.writes() == []


def test_a_label_alone_proves_nothing(bench: Onboardings) -> None:
    """Everybody who may update the key can set the label."""
    _foreign_key(bench)
    _label(bench)
    run = bench.start().execute()
    assert_stopped(run, "user:someone@example.com", "adopt_existing_key")


def test_after_a_create_whose_answer_was_lost_the_key_may_be_somebody_elses(
    bench: Onboardings,
) -> None:
    """No permission is needed to adopt it, but nothing is written to it before an approval."""
    bench.control.fault("CreateCryptoKey", status="UNAVAILABLE", times=50)
    assert bench.start().execute().state == "Failed"
    bench.control.clear_faults()
    _foreign_key(bench, new_ring=False)
    _label(bench)
    run = bench.asked()
    assert bench.writes() == ["external_keys.create"]
    assert ADOPTION_TITLE in run.text()
    assert "user:someone@example.com" in run.text()
    assert run.approve().state == "Attached", run.message


def test_after_a_create_that_was_refused_a_key_is_somebody_elses(bench: Onboardings) -> None:
    bench.control.fault("CreateCryptoKey", status="PERMISSION_DENIED", times=50)
    assert bench.start().execute().state == "Failed"
    bench.control.clear_faults()
    _foreign_key(bench, new_ring=False)
    _label(bench)
    assert_stopped(bench.start().execute(), "user:someone@example.com", "adopt_existing_key")
    assert bench.writes() == []


def test_an_adoption_that_failed_half_way_opens_no_door(bench: Onboardings) -> None:
    """The key has label and registration, but a next request without adoption is refused too."""
    _foreign_key(bench)
    run = bench.asked(adopt_existing_key=True)
    bench.control.fault("SetIamPolicy", status="PERMISSION_DENIED", times=50)
    run.approve()
    assert run.state == "Failed", run.message
    bench.control.clear_faults()
    labels = bench.kms.grpc.get_crypto_key(name=bench.key_name).labels
    assert any(name.startswith("anthropic-org-") for name in labels)
    bench.control.clear_log()
    again = bench.start().execute()
    assert_stopped(again, "user:someone@example.com", "adopt_existing_key")
    assert bench.writes() == []
    third = bench.asked(adopt_existing_key=True)
    assert third.approve().state == "Attached", third.message


def test_a_key_that_a_workspace_of_the_organization_has_is_ours(bench: Onboardings) -> None:
    """Even if the records are lost, the second workspace needs no adoption."""
    first, second = (w["id"] for w in bench.sandbox.workspaces if w["state"] == "fresh")
    bench.start(first, crypto_key="shared").execute().approve()
    forget_made_keys()
    run = bench.start(second, crypto_key="shared").execute()
    assert run.state == "Suspended", run.message
    assert ADOPTION_TITLE not in run.text()


@pytest.mark.server
@pytest.mark.parametrize("new_ring", [True, False], ids=["new ring", "ring that existed"])
def test_a_key_whose_first_version_takes_its_time_is_the_runs_own(
    bench: Onboardings, new_ring: bool
) -> None:
    """Nothing is adopted, and the evidence names the create."""
    if not new_ring:
        bench.kms.ring("anthropic-cmek")
    bench.control.switches(initial_version_pending_seconds=1)
    run = bench.asked()
    assert ADOPTION_TITLE not in run.text()
    assert run.approval_request.plan.adopts_key is False
    (evidence,) = [one for one in bench.artifacts(run) if (one.key or "").startswith("cmek-evid")]
    assert str(evidence.data).count('"action":"CreateCryptoKey"') == 1


def test_a_run_that_comes_too_late_to_create_a_key_leaves_the_proof_that_it_is_ours(
    bench: Onboardings,
) -> None:
    """Two runs with one key: the second reads that there is none, and Cloud KMS that there is."""
    first, second = (w["id"] for w in bench.sandbox.workspaces if w["state"] == "fresh")
    assert bench.start(first, crypto_key="shared").execute().state == "Suspended"
    bench.control.clear_log()
    bench.control.fault("GetCryptoKey", status="NOT_FOUND", skip=1)
    run = bench.start(second, crypto_key="shared").execute()
    assert "CreateCryptoKey" in bench.control.calls()
    assert run.state == "Suspended", run.message
    assert ADOPTION_TITLE not in run.text()


def _label(bench: Onboardings) -> None:
    organization = bench.sandbox.organization_id
    key = bench.kms.grpc.get_crypto_key(name=bench.key_name)
    key.labels[f"anthropic-org-{organization}"] = "true"
    bench.kms.grpc.update_crypto_key(crypto_key=key, update_mask={"paths": ["labels"]})
    bench.control.clear_log()


def test_without_a_deployment_nothing_is_read_or_made(bench: Onboardings) -> None:
    """Otherwise Prefect would refuse the suspension only after keys exist."""
    request = OnboardingForm(
        workspace=bench.fresh, project_id="acme-kms-prod", requested_by="ada@example.com"
    )
    with pytest.raises(NoDeploymentError):
        asyncio.run(onboard_workspace(request))
    assert bench.control.log() == []


def test_plan_only_writes_nothing_and_says_what_it_would_do(bench: Onboardings) -> None:
    run = bench.start(plan_only=True).execute()
    assert run.state == "Planned", run.message
    assert "Crypto key" in run.message
    assert bench.writes() == []
    (artifact,) = [one for one in bench.artifacts(run) if one.type == "markdown"]
    assert "create" in str(artifact.data)


def test_a_repair_puts_back_what_was_stripped(bench: Onboardings) -> None:
    """Only with `repair`: without it such a run reads, validates and fails with the cause."""
    bench.asked().approve()
    bench.kms.grpc.update_crypto_key(
        crypto_key=CryptoKey(name=bench.key_name, labels={}), update_mask={"paths": ["labels"]}
    )
    bench.control.clear_log()
    plain = bench.start().execute()
    assert_stopped(plain, "label")
    planned = bench.start(repair=True, plan_only=True).execute()
    assert_stopped(planned, "label")
    assert bench.writes() == []  # a plan writes nothing, whatever else is requested
    repaired = bench.start(repair=True).execute()
    assert repaired.state == "Already attached", repaired.message
    assert bench.writes() == ["UpdateCryptoKey"]


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("adopting", [False, True], ids=["own key", "adopted key"])
def test_a_rejection_counts_whatever_can_no_longer_be_read(
    bench: Onboardings, status: int, adopting: bool
) -> None:
    """Discovery asks again about a run that failed, and never about one that was rejected."""
    if adopting:
        _foreign_key(bench)
    run = bench.asked(adopt_existing_key=adopting)
    for call in ("organization.me", "workspaces.retrieve", "external_keys.*", "*CryptoKey*"):
        bench.control.fault(call, status=status, times=100)
    run.approve(decision="reject", comment="not with this key")
    assert run.state == "Rejected", run.message
    assert "not with this key" in run.message
    assert bench.attaches() == []
