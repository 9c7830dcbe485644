"""Anthropic's validation of a key: it fails without any one of the things that it needs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, ROLES, VIEWER
from sandbox.seed import ORGANIZATION_ID
from tests.support.admin import Admin
from tests.support.waiting import wait_until
from tests.support.world import SandboxWorld

LABEL = f"anthropic-org-{ORGANIZATION_ID}"
OTHER_LABEL = "anthropic-org-00000000-1111-4222-8333-444455556666"
ENCRYPTER, DECRYPTER = (f"roles/cloudkms.cryptoKey{word}" for word in ("Encrypter", "Decrypter"))


def _status(admin: Admin, key: str) -> object:
    return admin.ok("POST", f"external_keys/{key}/validate")["status"]


def _validate(admin: Admin, key_name: str) -> dict[str, object]:
    return admin.ok("POST", f"external_keys/{admin.register(key_name)}/validate")


def test_a_key_made_as_the_guide_says_passes(admin: Admin) -> None:
    """It also has the organization's label, which the guide lacks, and is an HSM key."""
    template = {"protectionLevel": "HSM", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"}
    result = _validate(admin, admin.crypto_key(versionTemplate=template))
    assert result == {"type": "external_key_validation", "status": "success", "error": None}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no grants": ({"roles": ()}, "Permission denied"),
    "viewer only": ({"roles": (VIEWER,)}, "Permission denied"),
    "no viewer": ({"roles": (ENCRYPTER_DECRYPTER,)}, "Permission denied"),
    "cannot decrypt": ({"roles": (VIEWER, ENCRYPTER)}, "Permission denied"),
    "cannot encrypt": ({"roles": (VIEWER, DECRYPTER)}, "Permission denied"),
    "no label": ({"labels": {}}, "label"),
    "label of another organization": ({"labels": {OTHER_LABEL: "true"}}, "label"),
    "label that is not true": ({"labels": {LABEL: "yes"}}, "label"),
    "multi-region": ({"location": "us"}, "single US region"),
    "global": ({"location": "global"}, "single US region"),
    "Europe": ({"location": "europe-west1"}, "single US region"),
    "signing key": (
        {
            "purpose": "ASYMMETRIC_SIGN",
            "versionTemplate": {"algorithm": "EC_SIGN_P256_SHA256"},
        },
        "symmetric",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_key_that_lacks_one_thing_fails_and_says_which(admin: Admin, what: str) -> None:
    fields, words = BROKEN[what]
    result = _validate(admin, admin.crypto_key(**fields))
    assert result["status"] == "failure"
    assert words in str(result["error"])


def test_a_caller_that_cannot_see_a_key_learns_nothing_about_it(admin: Admin) -> None:
    result = _validate(admin, "projects/acme-kms-prod/locations/us-east5/keyRings/r/cryptoKeys/k")
    assert result["status"] == "failure"
    assert "Permission denied" in str(result["error"])


def test_a_grant_on_the_project_or_under_a_condition_is_judged_as_iam_judges_it(
    admin: Admin,
) -> None:
    name = admin.crypto_key()
    key = admin.register(name)
    for year, status in ((2020, "failure"), (2120, "success")):
        until = f'request.time < timestamp("{year}-01-01T00:00:00Z")'
        admin.bind(name, ROLES, condition={"title": "until", "expression": until})
        assert _status(admin, key) == status
    admin.bind(name, ())
    assert _status(admin, key) == "failure"
    for role in ROLES:
        SandboxWorld(admin.world).bind("projects/acme-kms-prod", role)
    assert _status(admin, key) == "success"


def test_a_disabled_or_scheduled_primary_fails_and_a_restored_one_passes_again(
    admin: Admin,
) -> None:
    name = admin.crypto_key()
    key, version = admin.register(name), f"{name}/cryptoKeyVersions/1"

    def set_state(value: str) -> None:
        admin.google("PATCH", version, {"state": value}, updateMask="state")

    assert _status(admin, key) == "success"
    set_state("DISABLED")
    assert _status(admin, key) == "failure"
    set_state("ENABLED")
    assert _status(admin, key) == "success"
    admin.google("POST", f"{version}:destroy", {})
    assert _status(admin, key) == "failure"
    admin.google("POST", f"{version}:restore", {})
    assert _status(admin, key) == "failure"
    set_state("ENABLED")
    assert _status(admin, key) == "success"


def test_a_new_grant_works_only_once_iam_has_spread_it(admin: Admin) -> None:
    admin.control.switches(iam_propagation_seconds=120)
    key = admin.working_key()
    assert _status(admin, key) == "failure"
    admin.control.advance(121)
    assert _status(admin, key) == "success"


@pytest.mark.parametrize("switches", [{"kms_api_enabled": False}, {"billing_enabled": False}])
def test_a_project_that_is_off_fails_every_key(admin: Admin, switches: dict[str, bool]) -> None:
    key = admin.working_key()
    admin.control.switches(**switches)
    assert _status(admin, key) == "failure"


def test_a_service_perimeter_keeps_anthropic_out(admin: Admin) -> None:
    name = admin.crypto_key()
    admin.control.constraints(perimeter_blocks="anthropic")
    assert _validate(admin, name)["status"] == "failure"
    assert admin.google("GET", name)["name"] == name


def test_a_round_trip_that_never_ends_is_a_failure_too(admin: Admin) -> None:
    key = admin.working_key()
    admin.control.switches(validation_times_out=True)
    result = admin.ok("POST", f"external_keys/{key}/validate")
    assert result["status"] == "failure"
    assert "Timed out" in str(result["error"])


def test_others_are_served_while_a_validation_waits(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validation does not wait under the lock, and does not block other calls."""
    key = admin.working_key()
    admin.control.switches(validate_seconds=0.2)
    others_served = threading.Event()
    monkeypatch.setattr(
        admin.world,
        "may_go_on",
        lambda entry: others_served.is_set() or entry.call != "external_keys.validate",
    )
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        waiting = pool.submit(admin.ok, "POST", f"external_keys/{key}/validate")
        wait_until(lambda: admin.control.calls(call="external_keys.validate"), "arrived", 5)
        admin.ok("GET", f"external_keys/{key}")
        assert admin.world.lock.acquire(timeout=5)
        admin.world.lock.release()
        assert not waiting.done()
        others_served.set()
        assert waiting.result()["status"] == "success"
    assert time.monotonic() - began >= 0.2


def test_keys_of_other_clouds_can_be_registered_but_not_checked(admin: Admin) -> None:
    config = {"type": "aws", "kms_arn": "arn:aws:kms:us-east-2:210987654321:key/5b0d7c1e"}
    key = admin.ok("POST", "external_keys", {"provider_config": config})
    assert key["provider_config"]["region"] == "us-east-2"
    result = admin.ok("POST", f"external_keys/{key['id']}/validate")
    assert result["status"] == "failure"
    assert "aws" in str(result["error"])


def test_validation_writes_nothing_into_the_call_log_of_cloud_kms(admin: Admin) -> None:
    """The log has the calls of the sandbox's callers, not those of the sandbox itself."""
    key = admin.working_key()
    admin.control.clear_log()
    admin.ok("POST", f"external_keys/{key}/validate")
    assert admin.control.calls() == ["external_keys.validate"]
