"""The gate lets through what was approved and is still true, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmek.anthropic_identity import VIEWER
from cmek.onboarding.gate import (
    FRESHNESS_SECONDS,
    GateInput,
    Permit,
    Refusal,
    RefusalKind,
    RefusalReason,
    ValidationProof,
    decide,
)
from cmek.signatures.statement import SignedApproval
from cmek.signatures.verification import FileFacts, Signatures, Signers, Verified
from tests.support import facts as make

MONOTONIC = make.LOADED_AT + 2


def verdict(**parts: Any) -> Permit | Refusal:
    return decide(
        parts.get("approval_request", make.approval_request()),
        parts.get("answer", make.answer()),
        parts.get("gate_input", make.gate_input()),
        now=parts.get("now", make.NOW),
        monotonic=parts.get("monotonic", MONOTONIC),
    )


def codes(outcome: Permit | Refusal) -> set[str]:
    return {reason.code for reason in outcome.reasons} if isinstance(outcome, Refusal) else set()


def with_facts(**changes: Any) -> GateInput:
    """Circumstances whose facts and plan have both changed."""
    facts = make.facts(**changes)
    return make.gate_input(facts=facts, plan=make.plan(facts))


def approved(gate_input: GateInput, **parts: Any) -> Permit | Refusal:
    """The verdict when the approver saw exactly these circumstances."""
    plan = gate_input.plan
    return verdict(
        approval_request=make.approval_request(plan),
        answer=make.answer(plan_digest=plan.digest),
        gate_input=gate_input,
        **parts,
    )


def test_an_approval_of_the_live_plan_gets_a_permit() -> None:
    """The one way through, so that the other tests refuse for their own reason only."""
    permit = verdict()
    assert isinstance(permit, Permit)
    assert permit.workspace_id == make.WORKSPACE
    assert permit.plan_digest == make.plan().digest


def test_a_permit_says_all_that_it_is_for() -> None:
    """Each field from where it must come, so that the attach needs nothing else."""
    permit = verdict()
    assert isinstance(permit, Permit)
    assert permit.external_key_id == make.facts().external_key_id
    assert permit.approver == make.answer().approver
    assert permit.expires_at == make.approval_request().expires_at
    assert permit.valid_until == make.gate_input().validation.started_at + 60.0


@pytest.mark.parametrize(
    "kind",
    [
        Permit,
        RefusalReason,
        Refusal,
        ValidationProof,
        GateInput,
        Signatures,
        Verified,
        FileFacts,
        Signers,
        SignedApproval,
    ],
)
def test_what_is_weighed_and_what_comes_out_can_not_be_changed(kind: Any) -> None:
    """A permit whose workspace could be replaced would be a permit for any workspace."""
    assert kind.__dataclass_params__.frozen


def test_a_permit_cannot_be_made_by_hand() -> None:
    permit = verdict()
    assert isinstance(permit, Permit)
    with pytest.raises(TypeError, match=r"gate\.decide only"):
        Permit(
            request=make.REQUEST, external_key_id="e", plan_digest="d", approver="a", signers=(),
            valid_until=9e9, expires_at=make.NOW, seal=object(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "code", "kind"),
    [
        ({"decision": "reject"}, "rejected", RefusalKind.REJECTED),
        (
            {"workspace_id": "wrkspc_01SomethingElse"},
            "workspace_id",
            RefusalKind.REAPPROVAL_REQUIRED,
        ),
        ({"plan_digest": "0" * 64}, "plan", RefusalKind.REAPPROVAL_REQUIRED),
        ({"approver": "ada@example.com"}, "four_eyes", RefusalKind.REAPPROVAL_REQUIRED),
        ({"approver": "ADA@EXAMPLE.COM"}, "four_eyes", RefusalKind.REAPPROVAL_REQUIRED),
        ({"approver": "ａda@example.com"}, "four_eyes", RefusalKind.REAPPROVAL_REQUIRED),
        ({"approver": "a\u200bda@example.com"}, "four_eyes", RefusalKind.REAPPROVAL_REQUIRED),
        ({"approver": "  "}, "approver", RefusalKind.REAPPROVAL_REQUIRED),
    ],
)
def test_an_answer_that_does_not_count_is_refused(
    answer: dict[str, Any], code: str, kind: RefusalKind
) -> None:
    """Each flaw of an answer is named and leads to the right course."""
    outcome = verdict(answer=make.answer(**answer))
    assert code in codes(outcome)
    assert isinstance(outcome, Refusal)
    assert outcome.kind is kind


def test_without_four_eyes_the_requester_may_approve() -> None:
    """The comparison is made only when the request asks for it."""
    request = make.REQUEST.model_copy(update={"four_eyes": False})
    plan = make.plan(request=request)
    outcome = verdict(
        approval_request=make.approval_request(plan),
        answer=make.answer(plan_digest=plan.digest, approver="ada@example.com"),
        gate_input=make.gate_input(plan=plan, pinned=request),
    )
    assert isinstance(outcome, Permit)


def test_warnings_must_be_acknowledged() -> None:
    """A plan with warnings needs the acknowledgement, one without does not."""
    gate_input = make.gate_input(plan=make.plan(warnings=("billing (unknown)",)))
    assert codes(approved(gate_input)) == {"warnings"}
    digest = gate_input.plan.digest
    outcome = verdict(
        answer=make.answer(plan_digest=digest, acknowledge_warnings=True),
        gate_input=gate_input,
    )
    assert isinstance(outcome, Permit)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"workspace_archived": True}, "archived"),
        ({"workspace_external_key_id": "ekey_01Other"}, "attached"),
        ({"workspace_external_key_id": "ekey_01SandboxKeyOne"}, "attached"),
        ({"key": make.key(primary=None)}, "primary"),
        ({"key": make.key(primary=make.version(state="DISABLED"))}, "primary"),
        (
            {"versions": (make.version(), make.version(2, "DESTROY_SCHEDULED"))},
            "scheduled_for_destruction",
        ),
        ({"key": make.key(labels={})}, "label"),
        ({"granted_roles": frozenset({VIEWER})}, "grants"),
        ({"external_key_name": "projects/other"}, "external_key"),
        ({"key": make.key(name=make.KEY_NAME + "x")}, "key_name"),
    ],
)
def test_facts_that_must_not_be_attached_stop_even_when_approved(
    changes: dict[str, Any], code: str
) -> None:
    outcome = approved(with_facts(**changes))
    assert code in codes(outcome)
    assert isinstance(outcome, Refusal)
    assert outcome.kind is RefusalKind.BLOCKED


def test_a_version_destroyed_long_ago_blocks_nothing() -> None:
    """Only what is scheduled can still be rescued, and must be first."""
    assert isinstance(approved(with_facts(versions=(make.version(2, "DESTROYED"),))), Permit)


def test_only_a_look_that_took_too_long_is_worth_another() -> None:
    """Together with any other reason it is no matter of time."""
    late = MONOTONIC + FRESHNESS_SECONDS
    outcome = approved(make.gate_input(), monotonic=late)
    assert isinstance(outcome, Refusal)
    assert (outcome.is_stale_validation_only, outcome.kind) == (
        True,
        RefusalKind.REAPPROVAL_REQUIRED,
    )
    for gate_input in (make.gate_input(), with_facts(workspace_archived=True)):
        outcome = verdict(
            answer=make.answer(decision="reject"), gate_input=gate_input, monotonic=late
        )
        assert isinstance(outcome, Refusal)
        assert not outcome.is_stale_validation_only
    outcome = approved(with_facts(workspace_archived=True), monotonic=late)
    assert isinstance(outcome, Refusal)
    assert (outcome.is_stale_validation_only, outcome.kind) == (False, RefusalKind.BLOCKED)


def test_a_prerequisite_that_newly_fails_stops() -> None:
    outcome = verdict(gate_input=make.gate_input(failed_checks=("Billing",)))
    assert codes(outcome) == {"checks"}


@pytest.mark.parametrize(
    ("seconds", "refused"), [(-1, False), (0, False), (1, True), (86_400, True)]
)
def test_the_expiry_counts_at_the_moment_of_the_gate(seconds: float, refused: bool) -> None:
    """Not later than the expiry, to the second, whatever the answer's own time was."""
    approval_request = make.approval_request()
    outcome = verdict(
        approval_request=approval_request,
        now=approval_request.expires_at + timedelta(seconds=seconds),
    )
    assert (codes(outcome) == {"expired"}) is refused


@given(st.floats(min_value=-1e6, max_value=1e6), st.floats(min_value=-1e6, max_value=1e6))
def test_only_a_validation_from_after_the_answer_and_within_a_minute_counts(
    started_after: float, age: float
) -> None:
    started = make.LOADED_AT + started_after
    monotonic = started + age
    proof = ValidationProof(succeeded=True, started_at=started, error=None, request_id=None)
    outcome = verdict(gate_input=make.gate_input(validation=proof), monotonic=monotonic)
    may = started >= make.LOADED_AT and 0 <= monotonic - started <= FRESHNESS_SECONDS
    assert isinstance(outcome, Permit) is may


def test_a_failed_validation_stops() -> None:
    proof = replace(make.gate_input().validation, succeeded=False, error="no access")
    assert "validation" in codes(verdict(gate_input=make.gate_input(validation=proof)))


def test_only_the_latest_ask_counts() -> None:
    assert codes(verdict(gate_input=make.gate_input(latest_request_number=2))) == {"stale_request"}


def test_a_request_that_is_not_the_pinned_one_stops() -> None:
    """Even when the digest of the changed plan was approved."""
    other = make.REQUEST.model_copy(update={"requested_by": "eve@example.com"})
    plan = make.plan(request=other)
    gate_input = make.gate_input(plan=plan)
    assert "request" in codes(approved(gate_input))


def test_a_difference_is_named() -> None:
    outcome = verdict(gate_input=with_facts(workspace_name="Renamed"))
    assert isinstance(outcome, Refusal)
    assert "workspace_name: was 'Fresh', is 'Renamed'" in str(outcome)
    assert outcome.kind is RefusalKind.REAPPROVAL_REQUIRED


def test_a_no_outweighs_a_stop_and_a_stop_another_ask() -> None:
    gone = with_facts(workspace_archived=True)
    rejected = verdict(answer=make.answer(decision="reject"), gate_input=gone)
    stopped = verdict(gate_input=gone)
    assert isinstance(rejected, Refusal)
    assert isinstance(stopped, Refusal)
    assert rejected.kind is RefusalKind.REJECTED
    assert stopped.kind is RefusalKind.BLOCKED


def test_a_permit_goes_stale() -> None:
    """A minute after the validation started, or at the ask's expiry."""
    permit = verdict()
    assert isinstance(permit, Permit)
    until = make.LOADED_AT + 1 + FRESHNESS_SECONDS
    assert permit.is_fresh(now=make.NOW, monotonic=until)
    assert not permit.is_fresh(now=make.NOW, monotonic=until + 0.1)
    assert permit.is_fresh(now=permit.expires_at, monotonic=until)
    assert not permit.is_fresh(now=permit.expires_at + timedelta(seconds=1), monotonic=until)
