"""The form of an approval: the server and the run accept exactly the same texts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect.utilities.schema_tools.validation import is_valid
from pydantic import ValidationError

from cmek.onboarding.approval_request import ApprovalRequest
from flows._approval import approval_form
from tests.support import facts as make

WARNED = make.plan(warnings=("features",))
TYPED = make.approval_request(WARNED)
SIGNED = make.approval_request(WARNED, signatures=1)
GOOD: dict[str, Any] = {
    "decision": "approve",
    "workspace_id": make.WORKSPACE,
    "approver": "grace@example.com",
    "comment": "fine",
    "plan_digest": TYPED.digest,
    "acknowledge_warnings": True,
}
ENDS = ("\n", "\r\n", " ", "\t", "\u2028", "\u200b", "\x00", "\n\n", "$", "")


def form_takes(request: ApprovalRequest, fields: dict[str, Any]) -> bool:
    """Whether Prefect's server would resume the run with these fields."""
    return bool(is_valid(fields, approval_form(request, "").model_json_schema()))


def model_takes(request: ApprovalRequest, fields: dict[str, Any]) -> bool:
    """Whether the resumed run could read these fields."""
    try:
        approval_form(request, "").model_validate(fields)
    except ValidationError:
        return False
    return True


texts = st.text() | st.builds(
    lambda text, end, front: (end if front else "") + text + end,
    st.sampled_from([str(one) for one in GOOD.values()]),
    st.sampled_from(ENDS),
    st.booleans(),
)


@settings(deadline=None)
@given(st.sampled_from(["workspace_id", "approver", "comment", "plan_digest", "decision"]), texts)
@example("approver", "grace@example.com\n")
@example("workspace_id", make.WORKSPACE + "\n")
def test_schema_and_model_take_exactly_the_same_texts(field: str, text: str) -> None:
    """A pasted line break once passed the form, and then failed the resumed run."""
    fields = GOOD | {field: text}
    assert form_takes(TYPED, fields) is model_takes(TYPED, fields)


@pytest.mark.parametrize(
    ("request_", "changes", "taken"),
    [
        (TYPED, {}, True),
        (TYPED, {"acknowledge_warnings": False}, False),
        (TYPED, {"acknowledge_warnings": None}, False),
        (TYPED, {"decision": "reject", "acknowledge_warnings": False}, True),
        (TYPED, {"decision": "reject", "acknowledge_warnings": None}, True),
        (TYPED, {"comment": ""}, False),
        (TYPED, {"decision": None}, False),
        (SIGNED, {}, False),
        (SIGNED, {"signed_approvals": ""}, False),
        (SIGNED, {"signed_approvals": "x"}, True),
        (SIGNED, {"decision": "reject"}, True),
        (make.approval_request(), {"plan_digest": make.plan().digest}, False),
    ],
)
def test_an_approval_needs_what_a_rejection_does_not(
    request_: ApprovalRequest, changes: dict[str, Any], taken: bool
) -> None:
    """The acknowledgement and the signature are required before the run goes on."""
    fields = {name: value for name, value in (GOOD | changes).items() if value is not None}
    assert form_takes(request_, fields) is taken


@pytest.mark.parametrize(
    "field", ["decision", "workspace_id", "approver", "comment", "plan_digest"]
)
def test_what_binds_a_response_has_no_default_in_the_model(field: str) -> None:
    """A run forced on without a response must not find a default; the browser may show one."""
    fields = {name: value for name, value in GOOD.items() if name != field}
    assert not form_takes(TYPED, fields)
    assert not model_takes(TYPED, fields)
