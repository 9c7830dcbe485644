"""Onboarding requests for tests, under a policy that allows everything, and their full approval.

A test gives fields in one flat mapping; only this module knows where the form has each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cmek.onboarding.approval_request import ApprovalRequest
from cmek.onboarding.policy import RECOMMENDED, SETTINGS, PolicyModel
from cmek.onboarding.request import OnboardingForm, OnboardingRequest, resolve

APPROVER: Final = "grace@example.com"
REQUESTER: Final = "ada@example.com"
LENIENT: Final = PolicyModel(may_override=SETTINGS)
"""The guide's recommendation; a request may override every setting."""


def form_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The flow's parameter as a caller sends it, valid or not.

    Args:
        fields: Fields of an `OnboardingRequest`; a setting becomes an override.
    """
    given = dict(fields)
    overrides = {name: given.pop(name) for name in SETTINGS if name in given}
    existing, new = given.pop("workspace_id", None), given.pop("create_workspace", None)
    form: dict[str, Any] = {"workspace": new} if new is not None else {"workspace": existing}
    form |= {"new_workspace": True} if new is not None else {}
    form |= {"overrides": overrides} if overrides else {}
    return form | given


def resolved(fields: Mapping[str, Any]) -> OnboardingRequest:
    """The request that a run would pin."""
    return resolve(OnboardingForm.model_validate(form_json(fields)), LENIENT)


def form_of(request: OnboardingRequest) -> OnboardingForm:
    """The form that resolves to this request, even after a test has changed a setting of it."""
    settings = request.model_dump(mode="json", include=set(SETTINGS))
    usual = RECOMMENDED.model_dump(mode="json")
    overrides = {name: value for name, value in settings.items() if value != usual[name]}
    return request.form.model_copy(update={"overrides": overrides})


def approval_of(approval_request: ApprovalRequest, **changes: Any) -> dict[str, Any]:
    """The approval that the form asks for, with changes; a change to None leaves the field out."""
    plan = approval_request.plan
    fields: dict[str, Any] = {
        "decision": "approve",
        "workspace_id": plan.workspace_id,
        "workspace_name": None if plan.workspace_id else plan.workspace_name,
        "approver": APPROVER,
        "comment": "fine",
        "plan_digest": approval_request.digest,
        "acknowledge_warnings": True if plan.to_acknowledge else None,
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}
