"""Each class of error through the whole flow: its remedy is shown, nothing half-made is hidden."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.flows.outcomes import assert_stopped
from tests.support.onboarding import Onboardings

Setup = Callable[[Onboardings], object]
RPC = "type.googleapis.com/google.rpc"


def _refusing(call: str, status: str, message: str = "", *details: dict[str, Any]) -> Setup:
    return lambda bench: bench.control.fault(
        call, status=status, message=message, details=list(details), times=50
    )


def _denying(permission: str) -> Setup:
    return lambda bench: bench.sandbox.world.identities.administrator.deny(permission)


def _constraint(**changes: Any) -> Setup:
    return lambda bench: bench.control.constraints(**changes)


BEFOREHAND: dict[str, tuple[Setup, str]] = {
    "API off": (
        lambda bench: bench.control.switches(kms_api_enabled=False),
        "gcloud services enable cloudkms.googleapis.com",
    ),
    "billing off": (
        lambda bench: bench.control.switches(billing_enabled=False),
        "gcloud billing projects link",
    ),
    "permission": (_denying("cloudkms.cryptoKeys.create"), "cloudkms.cryptoKeys.create"),
    "domain restricted sharing": (
        _constraint(allowed_policy_member_domains=["C0sandbox"]),
        "iam.allowedPolicyMemberDomains",
    ),
    "location policy": (
        _constraint(resource_locations=["europe-west1"]),
        "gcp.resourceLocations",
    ),
    "perimeter": (_constraint(perimeter_blocks="everybody"), "perimeter"),
}
"""Faults that the checks find: nothing is made."""

QUOTA = {"@type": f"{RPC}.QuotaFailure", "violations": [{"subject": "p", "description": "used"}]}
KEY_DISABLED = {
    "@type": f"{RPC}.PreconditionFailure",
    "violations": [{"type": "KEY_DISABLED", "subject": "the/version", "description": ""}],
}
ON_THE_WAY: dict[str, tuple[Setup, str, list[str]]] = {
    "location policy that could not be read": (
        _refusing(
            "CreateCryptoKey",
            "FAILED_PRECONDITION",
            "Constraint constraints/gcp.resourceLocations violated for projects/123456789012",
        ),
        "constraints/gcp.resourceLocations",
        ["CreateKeyRing", "CreateCryptoKey"],
    ),
    "permission lost": (
        _refusing(
            "SetIamPolicy",
            "PERMISSION_DENIED",
            "Permission 'cloudkms.cryptoKeys.setIamPolicy' denied on resource 'the/key'",
        ),
        "cloudkms.cryptoKeys.setIamPolicy",
        ["CreateKeyRing", "CreateCryptoKey", "SetIamPolicy"],
    ),
    "version unusable": (
        _refusing("CreateCryptoKey", "FAILED_PRECONDITION", "not enabled", KEY_DISABLED),
        "versions enable",
        ["CreateKeyRing", "CreateCryptoKey"],
    ),
    "location unknown to Cloud KMS": (
        _refusing(
            "CreateKeyRing",
            "NOT_FOUND",
            "The request concerns location 'us-east5' but was sent to location 'global'.",
        ),
        "Cloud KMS does not know locations/us-east5",
        ["CreateKeyRing"],
    ),
    "project gone": (
        _refusing("CreateKeyRing", "NOT_FOUND", "projects/acme-kms-prod not found"),
        "projects/acme-kms-prod",
        ["CreateKeyRing"],
    ),
    "quota": (
        _refusing("CreateKeyRing", "RESOURCE_EXHAUSTED", "", QUOTA),
        "quota of Google's is used up",
        ["CreateKeyRing"],
    ),
}
"""Faults that only a write finds, with the calls that wrote or tried to; the refused is last."""


@pytest.mark.parametrize("name", BEFOREHAND)
def test_what_the_checks_find_stops_before_anything_is_made(bench: Onboardings, name: str) -> None:
    setup, says = BEFOREHAND[name]
    setup(bench)
    run = bench.start().execute()
    assert_stopped(run, says)


@pytest.mark.parametrize("name", ON_THE_WAY)
def test_what_a_write_finds_ends_the_run_with_its_class(bench: Onboardings, name: str) -> None:
    setup, says, written = ON_THE_WAY[name]
    setup(bench)
    run = bench.start().execute()
    assert run.state == "Failed"
    assert says in run.message
    assert list(dict.fromkeys(bench.writes())) == written


def test_a_lost_policy_race_is_run_again(bench: Onboardings) -> None:
    """The policy is read, merged and written again until it fits; then the run goes on."""
    message = "There were concurrent policy changes. Please retry."
    bench.control.fault("SetIamPolicy", status="ABORTED", message=message, times=2)
    assert bench.start().execute().state == "Suspended"
    assert bench.writes().count("SetIamPolicy") == 3


def test_a_ring_whose_name_was_taken_for_a_moment_is_made_again(bench: Onboardings) -> None:
    """Guide step 1: another caller made or deleted the ring at the same time."""
    bench.control.fault("CreateKeyRing", status="ALREADY_EXISTS")
    assert bench.start().execute().state == "Suspended"
    assert bench.writes().count("CreateKeyRing") == 2


def test_a_key_that_can_not_be_read_yet_is_read_again(bench: Onboardings) -> None:
    """Guide step 4: the first of these reads is a check's, before there is a key."""
    bench.control.fault("GetCryptoKey", status="NOT_FOUND", times=3)
    assert bench.start().execute().state == "Suspended"
    assert bench.control.faults() == []
    assert bench.writes().count("CreateCryptoKey") == 1


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("external_key_validation_failed", "both grants exist since"),
        ("key_profile_mismatch", "profile"),
        ("workspace_policy_violation", "policy"),
    ],
)
def test_a_refused_attach_comes_with_its_cause(bench: Onboardings, code: str, cause: str) -> None:
    """The error's type decides, never its text; an artifact has the causes and the request id."""
    run = bench.asked()
    bench.control.fault("workspaces.update", status=400, error_code=code, times=9)
    run.approve()
    assert run.state == "Failed"
    assert "nothing was attached" in run.message
    assert len(bench.attaches()) == 1, "a refusal that stays is not tried again"
    assert code in run.message
    likely = run.message.split("Most likely:")[1]
    assert cause in likely
    (causes,) = [one for one in bench.artifacts(run) if "diagnosis" in str(one.key)]
    assert "req_" in str(causes.data)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((status, None) for status in (400, 401, 403, 404, 409, 429)),
        (400, "organization_on_hold"),
        (400, "organization_type_not_supported"),
        (400, "storage_profile_mismatch"),
        (400, "user_profile_not_found"),
        (400, "not_known_yet"),
    ],
)
def test_a_refusal_that_is_not_about_the_key_is_not_blamed_on_it(
    bench: Onboardings, status: int, code: str | None
) -> None:
    """Anthropic has validated the key just before; what it refused now, it says itself."""
    run = bench.asked()
    bench.control.fault("workspaces.update", status=status, error_code=code, times=9)
    run.approve()
    assert run.state == "Failed"
    assert "nothing was attached" in run.message
    assert str(status) in run.message
    assert "Most likely" not in run.message
