"""The gate's decision on verified signatures: each flaw is refused with its own reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse
from cmek.onboarding.gate import Permit, Refusal, RefusalKind, decide
from cmek.onboarding.request import OnboardingRequest
from cmek.signatures.statement import SignedApproval, signing_command, signing_text
from cmek.signatures.verification import CLOCK_SKEW, Signatures, Verified
from tests.support import facts as make
from tests.support.signing import GRACE, KATHERINE, statement

MONOTONIC = make.LOADED_AT + 2
SECOND = timedelta(seconds=1)
REQUESTED = make.approval_request().requested_at


def verified(approver: str = GRACE, key: str | None = None, **changes: Any) -> Verified:
    said = statement(approver=approver, **changes)
    return Verified(SignedApproval(said, "signature"), "ED25519", key or f"SHA256:{approver}")


def verdict(
    *found: Verified, required: int = 1, problems: tuple[str, ...] = (), **parts: Any
) -> Permit | Refusal:
    request: OnboardingRequest = parts.get("request", make.REQUEST)
    plan = make.plan(request=request)
    answer: ApprovalResponse = parts.get("answer", make.answer(plan_digest=plan.digest))
    approval_request: ApprovalRequest = parts.get(
        "approval_request", make.approval_request(plan, signatures=required)
    )
    gate_input = make.gate_input(
        plan=plan, pinned=request, signatures=Signatures(required, found, problems)
    )
    return decide(
        approval_request, answer, gate_input, now=parts.get("now", make.NOW), monotonic=MONOTONIC
    )


def why(outcome: Permit | Refusal) -> str:
    """The refusal's text; all its reasons are about signatures and lead to another request."""
    assert isinstance(outcome, Refusal)
    assert {reason.code for reason in outcome.reasons} == {"signature"}
    assert outcome.kind is RefusalKind.REAPPROVAL_REQUIRED
    return str(outcome)


def signers(outcome: Permit | Refusal) -> tuple[str, ...]:
    """The signers of the permit."""
    assert isinstance(outcome, Permit)
    return outcome.signers


def test_a_signed_answer_gets_a_permit_that_names_its_signer() -> None:
    """This is the only permitted case, so each other test refuses for its own reason only."""
    assert signers(verdict(verified())) == (f"{GRACE} (ED25519 key SHA256:{GRACE})",)


@pytest.mark.parametrize("required", [1, 2])
def test_an_unsigned_answer_is_refused_where_signatures_are_required(required: int) -> None:
    assert f"0 of {required} required" in why(verdict(required=required))


def test_a_typed_answer_is_enough_where_none_is_required() -> None:
    assert signers(verdict(required=0)) == ()


def test_a_rejection_needs_no_signature() -> None:
    no = make.answer(plan_digest=make.plan().digest, decision="reject")
    outcome = verdict(answer=no)
    assert isinstance(outcome, Refusal)
    assert outcome.kind is RefusalKind.REJECTED
    assert [reason.code for reason in outcome.reasons] == ["rejected"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"issued_at": make.NOW + CLOCK_SKEW + SECOND}, "signed in the future"),
        ({"issued_at": REQUESTED - CLOCK_SKEW - SECOND}, "before the request was made"),
    ],
)
def test_a_good_signature_from_another_time_is_refused(change: dict[str, Any], said: str) -> None:
    """It may be old and stolen, or dated in the future."""
    assert said in why(verdict(verified(**change)))


@pytest.mark.parametrize("issued_at", [make.NOW + CLOCK_SKEW, REQUESTED - CLOCK_SKEW])
def test_clocks_may_differ_a_little(issued_at: Any) -> None:
    assert isinstance(verdict(verified(issued_at=issued_at)), Permit)


def test_an_expired_signature_is_refused() -> None:
    approval_request = make.approval_request(signatures=1)
    one = verified()
    expiry = approval_request.expires_at
    assert signers(verdict(one, approval_request=approval_request, now=expiry))
    late = verdict(one, approval_request=approval_request, now=expiry + SECOND)
    assert f"the signature of {GRACE} expired" in str(late)


@pytest.mark.parametrize("change", [{"comment": "altered"}, {"approver": KATHERINE}])
def test_the_answer_must_be_the_signers_own(change: dict[str, str]) -> None:
    answer = make.answer(plan_digest=make.plan().digest, **change)
    assert "the approver and the comment of the answer" in why(verdict(verified(), answer=answer))


def test_two_of_many_are_enough_when_two_are_required() -> None:
    """Any two enrolled approvers may sign, each with their own comment."""
    both = verdict(verified(), verified(KATHERINE, comment="me too"), required=2)
    assert len(signers(both)) == 2


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ((), "1 of 2 required signatures"),
        ((verified(),), "has signed more than once"),
        ((verified(GRACE.upper(), key="SHA256:x"),), "has signed more than once"),
        ((verified(KATHERINE, key=f"SHA256:{GRACE}"),), "one key has signed in more than one name"),
    ],
)
def test_nobody_counts_twice(others: tuple[Verified, ...], said: str) -> None:
    """Another spelling, another key or another name does not help."""
    assert said in why(verdict(verified(), *others, required=2))


@pytest.mark.parametrize(
    ("four_eyes", "requester", "required", "counts"),
    [
        (False, GRACE, 1, True),
        (False, GRACE, 2, False),  # who requests can't be one of those who must agree
        (True, KATHERINE, 1, False),  # a signature beside another's name does not help
    ],
)
def test_the_requester_does_not_count_where_others_must_agree(
    requester: str, required: int, *, four_eyes: bool, counts: bool
) -> None:
    request = make.REQUEST.model_copy(update={"four_eyes": four_eyes, "requested_by": requester})
    digest = make.plan(request=request).digest
    fields = {"plan_digest": digest, "requester": requester}
    signed = [verified(one, **fields) for one in (GRACE, KATHERINE)]
    if counts:
        assert signers(verdict(signed[0], request=request, required=required))
    else:
        outcome = verdict(*signed, required=required, request=request)
        assert "another person must sign" in why(outcome)


@pytest.mark.parametrize("required", [0, 1])
def test_one_bad_signature_refuses_the_response(required: int) -> None:
    """It does so besides enough good ones, and where none is required."""
    found = verdict(verified(), required=required, problems=("key SHA256:x is revoked",))
    assert "is revoked" in why(found)


def test_a_signature_must_be_for_the_plan_as_it_is_now() -> None:
    """Facts that changed after the signing void it, whatever digest the response has."""
    renamed = make.plan(make.facts(workspace_name="Renamed"))
    gate_input = replace(
        make.gate_input(signatures=Signatures(1, (verified(),))),
        facts=make.facts(workspace_name="Renamed"),
        plan=renamed,
    )
    answer, asked = make.answer(plan_digest=renamed.digest), make.approval_request(signatures=1)
    outcome = decide(asked, answer, gate_input, now=make.NOW, monotonic=MONOTONIC)
    assert "for another plan" in why(outcome)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"run_id": "x"}, "run"),
        ({"approval_request": "x"}, "approval request"),
        ({"nonce": "x"}, "approval request (its nonce is not this one's)"),
        ({"plan_digest": "x"}, "plan"),
        ({"workspace_id": "x"}, "workspace"),
        ({"workspace_name": "x"}, "workspace"),
        ({"key_name": make.KEY_NAME + "x"}, "key"),
        ({"external_key_id": "x"}, "external key"),
        ({"requester": "x@example.com"}, "requester"),
        ({"acknowledged_warnings": ("x",)}, "list of warnings"),
        ({"other_decrypters": ("x",)}, "list of those who can decrypt"),
        ({"other_workspaces": ("x",)}, "list of workspaces"),
        ({"imported_versions": ("x",)}, "list of imported versions"),
        ({"data_residency": "us_only"}, "data residency"),
        ({"decision": "reject"}, "decision"),
        ({"expires_at": make.NOW + timedelta(days=6, seconds=1)}, "expiry"),
    ],
)
def test_a_statement_about_anything_else_is_named(change: dict[str, Any], what: str) -> None:
    """In a replay each field that binds a signature is named, with the exact text for people."""
    assert why(verdict(verified(**change))) == f"{GRACE} has signed for another {what}"


def test_the_text_of_a_request_says_how_many_must_sign_and_how() -> None:
    """It has the lines to paste, and is empty where typing is enough."""
    assert signing_text(make.approval_request()) == []
    for number, count in ((1, "One approver"), (2, "2 different approvers")):
        asked = make.approval_request(signatures=number)
        assert signing_text(asked) == [
            "### To sign",
            (
                f"{count} of this worker's `allowed_signers` must sign. Respond with `cmek approve "
                f"{make.RUN_ID}`, which shows the plan that has this digest. Or paste these lines "
                "into a shell; they ask for address and comment, which must be those of the form. "
                "Paste all that they print; several signed approvals stand one behind the other."
            ),
            f"```sh\n{signing_command(asked)}\n```",
        ]
