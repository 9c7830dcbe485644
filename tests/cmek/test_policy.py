"""A policy decides; a request overrides what the policy permits, and nothing else."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cmek.keys.verdicts import Check, CheckReport
from cmek.models import refusals
from cmek.onboarding.eligibility import policy_change
from cmek.onboarding.plan import build_plan
from cmek.onboarding.policy import (
    RECOMMENDED,
    SETTINGS,
    OverrideRefusedError,
    PolicyModel,
    UnnameableKeyError,
    deviations,
)
from cmek.onboarding.request import OnboardingForm, is_named_after_workspace, resolve
from tests.support import facts as make

OTHER: Final[dict[str, Any]] = {
    "location": "us-central1",
    "key_ring": "shared",
    "crypto_key": "anthropic",
    "display_name": "Payments",
    "protection_level": "SOFTWARE",
    "rotation_period_days": 30,
    "destroy_delay_days": 7,
    "data_residency": "us_only",
    "repair": True,
    "allow_default_workspace": True,
    "four_eyes": False,
    "signatures": 2,
    "approval_expires_hours": 1,
    "accepted_warnings": ["audit_logs"],
    "mark_key": False,
    "expected_organization": "3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34",
    "permitted_customer_id": "C01abcdef",
    "anthropic_block": "other-admin",
    "kms_block": "other-kms",
}
"""A value of each setting that the guide does not recommend."""


def form(**fields: Any) -> OnboardingForm:
    usual: dict[str, Any] = {
        "workspace": "payments",
        "new_workspace": True,
        "project_id": "acme-kms-prod",
        "requested_by": "ada@example.com",
    }
    return OnboardingForm.model_validate(usual | fields)


def test_every_setting_is_tried_here() -> None:
    assert set(OTHER) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_may_be_overridden_is_and_is_shown_beside_the_recommendation(
    name: str,
) -> None:
    policy = PolicyModel(may_override=(name,))
    request = resolve(form(overrides={name: OTHER[name]}), policy)
    found = request.model_dump(mode="json")[name]
    assert found == OTHER[name]
    assert [one.field for one in request.deviations] == [name]
    assert request.form == form(overrides={name: OTHER[name]})


@pytest.mark.parametrize("name", SETTINGS)
def test_any_other_override_is_refused_with_field_value_policy_and_remedy(name: str) -> None:
    policy = PolicyModel(may_override=tuple(one for one in SETTINGS if one != name))
    with pytest.raises(OverrideRefusedError) as refused:
        resolve(form(overrides={name: OTHER[name]}, policy="strict"), policy)
    said = str(refused.value)
    for part in (f"overrides.{name}", repr(OTHER[name]), "'strict'", "Leave it out", "Nothing was"):
        assert part in said


@pytest.mark.parametrize("name", SETTINGS)
def test_an_override_that_changes_nothing_needs_no_permission(name: str) -> None:
    policy = PolicyModel(**{name: OTHER[name]}, may_override=())
    resolve(form(overrides={name: OTHER[name]}), policy)


def test_the_shipped_policy_is_what_the_guide_recommends() -> None:
    assert deviations(PolicyModel()) == ()
    recommended = resolve(form(), RECOMMENDED)
    assert recommended.deviations == ()
    assert recommended.protection_level == "HSM"
    assert recommended.rotation_period_days == 90
    assert recommended.four_eyes


def test_what_a_policy_decides_about_approvals_no_request_may_change_by_default() -> None:
    guarded = {"four_eyes", "signatures", "approval_expires_hours", "accepted_warnings"}
    guarded |= {"allow_default_workspace", "protection_level", "destroy_delay_days"}
    guarded |= {"anthropic_block", "kms_block", "expected_organization"}
    assert not guarded & set(RECOMMENDED.may_override)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"may_override": ["colour"]}, "may_override.0: 'colour': there is no setting"),
        ({"location": "eu"}, "location: 'eu': Input should be 'us-east5'"),
        ({"crypto_key": "{workspace}"}, "crypto_key: '{workspace}'"),
        ({"accepted_warnings": ["No spaces"]}, "accepted_warnings.0: 'No spaces'"),
        ({"colour": 1}, "colour: there is no such field"),
    ],
)
def test_a_wrong_policy_is_refused_by_field_and_value(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        PolicyModel.model_validate(fields)
    (only,) = refusals(error.value)
    assert said in only


@pytest.mark.parametrize("empty", ["", None])
def test_an_emptied_field_of_the_block_form_means_none(empty: object) -> None:
    """Prefect's form cannot send null for a text, and sends 0 for a number."""
    emptied = dict.fromkeys(
        ("display_name", "expected_organization", "permitted_customer_id"), empty
    )
    policy = PolicyModel.model_validate(emptied | {"rotation_period_days": 0})
    assert policy.rotation_period_days is None
    assert {getattr(policy, name) for name in emptied} == {None}


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("{workspace_id}", "wrkspc_01PaymentsProd"),
        ("{workspace_name}-{workspace_id}", "pay-prod-wrkspc_01PaymentsProd"),
        ("anthropic", "anthropic"),
    ],
)
def test_a_key_is_named_by_the_policy(template: str, key: str) -> None:
    wanted = form(workspace="wrkspc_01PaymentsProd", new_workspace=False)
    request = resolve(wanted, PolicyModel(crypto_key=template), workspace_name="pay prod")
    assert request.key_name.crypto_key == request.crypto_key == key
    named = is_named_after_workspace(wanted, PolicyModel(crypto_key=template))
    assert named is ("{workspace_name}" in template)


def test_a_name_that_cloud_kms_does_not_take_is_refused_with_the_template() -> None:
    with pytest.raises(UnnameableKeyError, match=r"crypto_key.*change crypto_key in the policy"):
        resolve(form(), PolicyModel(crypto_key="x" * 64))


def test_an_edited_policy_is_noticed_exactly_when_the_request_would_come_to_something_else() -> (
    None
):
    request = resolve(form(overrides={"location": "us-central1"}), RECOMMENDED)
    assert policy_change(request, RECOMMENDED) is None
    harmless = PolicyModel(may_override=("location",))
    assert policy_change(request, harmless) is None
    for edited, said in (
        (PolicyModel(four_eyes=False), "four_eyes was True, is False"),
        (PolicyModel(signatures=2), "signatures was 0, is 2"),
        (PolicyModel(may_override=()), "overrides.location"),
    ):
        check = policy_change(request, edited)
        assert check is not None
        assert check.status == "warn"
        assert said in check.evidence


@given(
    template=st.just(RECOMMENDED.crypto_key)
    | st.from_regex(r"\A[a-z-]{0,70}(\{workspace_(name|id)\})?[a-z-]{0,20}\Z"),
    new=st.booleans(),
)
def test_a_run_that_waits_is_warned_exactly_when_the_policy_would_name_another_key(
    template: str, new: bool
) -> None:
    """A key name with the workspace's name in it, which only Anthropic knows, is not compared."""
    workspace = "Payments EU" if new else "wrkspc_01PaymentsProd"
    request = resolve(form(workspace=workspace, new_workspace=new), RECOMMENDED)
    try:
        policy = PolicyModel(crypto_key=template)
    except ValidationError:
        return
    try:
        now = resolve(request.form, policy, workspace_name="workspace")
        differs = now != request and not is_named_after_workspace(request.form, policy)
    except UnnameableKeyError:
        differs = True
    check = policy_change(request, policy)
    assert (check and check.status) == ("warn" if differs else None)


@pytest.mark.parametrize("template", ["{workspace_name}", "a-{workspace_name}-{workspace_id}"])
def test_a_key_that_is_named_after_the_workspace_is_no_change_of_policy(template: str) -> None:
    policy = PolicyModel(crypto_key=template)
    wanted = form(workspace="wrkspc_01PaymentsProd", new_workspace=False)
    request = resolve(wanted, policy, workspace_name="pay prod")
    assert policy_change(request, policy) is None


def report(*checks: Check) -> CheckReport:
    return CheckReport(checks=checks, project_number="1")


def test_an_accepted_warning_needs_no_acknowledgement_and_nothing_else_can_be_accepted() -> None:
    """A failure or an unknown stays, whatever the policy says."""
    checks = (
        Check(id="audit_logs", title="", status="warn", evidence=""),
        Check(id="features", title="", status="warn", evidence=""),
        Check(id="billing", title="", status="unknown", evidence="", who_can_tell="billing"),
        Check(id="location", title="", status="fail", evidence="", remedy="x"),
    )
    policy = PolicyModel(accepted_warnings=("audit_logs", "billing", "location"))
    request = resolve(form(workspace=make.WORKSPACE, new_workspace=False), policy)
    plan = build_plan(make.facts(), request, report(*checks))
    assert [one.id for one in plan.warnings] == ["audit_logs", "billing", "features", "location"]
    assert [one.id for one in plan.warnings if one.accepted] == ["audit_logs"]
    assert len(plan.to_acknowledge) == 3


@pytest.mark.parametrize("name", SETTINGS)
def test_every_resolved_setting_is_under_the_digest(name: str) -> None:
    """It may come from the policy or from the request."""
    usual = resolve(form(), RECOMMENDED)
    other = resolve(form(), PolicyModel(**{name: OTHER[name]}))
    plans = [build_plan(make.facts(), one, report()) for one in (usual, other)]
    assert plans[0].digest != plans[1].digest
