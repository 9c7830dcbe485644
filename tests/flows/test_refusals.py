"""Requests that must not be carried out are refused before anything is made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.cloud.kms_v1 import CryptoKey

from cmek.anthropic_identity import MEMBER
from cmek.onboarding.request import OnboardingForm
from flows.onboard import NoDeploymentError, onboard_workspace
from tests.flows.outcomes import assert_stopped
from tests.support.kms import Level, Purpose
from tests.support.onboarding import Onboardings

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
        pytest.param(
            *({"version_template": {"protection_level": Level.SOFTWARE}}, "protection level"),
            marks=pytest.mark.prove,
        ),
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


def _foreign_key(bench: Onboardings) -> None:
    kms = bench.kms
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


def test_a_foreign_key_is_adopted_when_a_person_says_so(bench: Onboardings) -> None:
    """Label and grants are added; labels and bindings of others stay."""
    _foreign_key(bench)
    run = bench.asked(adopt_existing_key=True)
    key = bench.kms.grpc.get_crypto_key(name=bench.key_name)
    assert key.labels["team"] == "data"
    bindings = {b.role: list(b.members) for b in bench.kms.policy(bench.key_name).bindings}
    assert bindings["roles/cloudkms.cryptoKeyDecrypter"] == ["user:someone@example.com"]
    assert bindings["roles/cloudkms.viewer"] == [MEMBER]
    run.approve()
    assert run.state == "Attached", run.message


def test_without_a_deployment_nothing_is_read_or_made(bench: Onboardings) -> None:
    """Prefect would refuse the suspend only after keys exist."""
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
    """Only when asked: without `repair` such a run reads, validates and fails with the cause."""
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
