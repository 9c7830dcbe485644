"""The gate permits what was approved and is still true, and nothing else."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmek.anthropic_identity import VIEWER
from cmek.keys.verdicts import CheckReport
from cmek.onboarding.gate import (
    FRESHNESS_SECONDS,
    STEADY,
    GateInput,
    Permit,
    Refusal,
    RefusalKind,
    RefusalReason,
    ValidationProof,
    adoption_refusal,
    decide,
)
from cmek.onboarding.plan import build_plan
from cmek.onboarding.request import OnboardingRequest
from cmek.signatures.signers import FileFacts, Signers
from cmek.signatures.statement import SignedApproval
from cmek.signatures.verification import Signatures, Verified
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


def refused(outcome: Permit | Refusal, kind: RefusalKind) -> Refusal:
    assert isinstance(outcome, Refusal)
    assert outcome.kind is kind
    return outcome


def permitted(outcome: Permit | Refusal) -> Permit:
    assert isinstance(outcome, Permit)
    return outcome


def with_facts(**changes: Any) -> GateInput:
    """A gate input whose facts and plan have both changed."""
    facts = make.facts(**changes)
    return make.gate_input(facts=facts, plan=make.plan(facts))


def approved(gate_input: GateInput, **parts: Any) -> Permit | Refusal:
    """The verdict if the approver saw exactly this plan."""
    plan = gate_input.plan
    return verdict(
        approval_request=make.approval_request(plan),
        answer=make.answer(plan_digest=plan.digest),
        gate_input=gate_input,
        **parts,
    )


def test_an_approval_of_the_live_plan_gets_a_permit_that_says_all_that_it_is_for() -> None:
    """This is the only permitted case, so each other test refuses for its own reason only."""
    permit = permitted(verdict())
    assert permit.workspace_id == make.WORKSPACE
    assert permit.plan_digest == make.plan().digest
    assert permit.external_key_id == make.facts().external_key_id
    assert permit.approver == make.answer().approver
    assert permit.expires_at == make.approval_request().expires_at
    assert permit.valid_until == make.gate_input().validation.started_at + 60.0


@pytest.mark.parametrize(
    "kind",
    [
        *(Permit, RefusalReason, Refusal, ValidationProof, GateInput),
        *(Signatures, Verified, FileFacts, Signers, SignedApproval),
    ],
)
def test_what_is_compared_and_what_comes_out_can_not_be_changed(kind: Any) -> None:
    """A permit whose workspace could be replaced would be a permit for any workspace."""
    assert kind.__dataclass_params__.frozen


def test_a_permit_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match=r"gate\.decide only"):
        Permit(
            request=make.REQUEST, external_key_id="e", plan_digest="d", approver="a", signers=(),
            signed_approvals="", valid_until=9e9, expires_at=make.NOW, seal=object(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"decision": "reject"}, "rejected"),
        ({"workspace_id": "wrkspc_01SomethingElse"}, "workspace_id"),
        # a name besides the id of an existing workspace is refused
        ({"workspace_name": "Fresh"}, "workspace_id"),
        ({"plan_digest": "0" * 64}, "plan"),
        ({"approver": "ada@example.com"}, "four_eyes"),
        ({"approver": "ADA@EXAMPLE.COM"}, "four_eyes"),
        ({"approver": "ａda@example.com"}, "four_eyes"),
        ({"approver": "a\u200bda@example.com"}, "four_eyes"),
        ({"approver": "  "}, "approver"),
    ],
)
def test_an_invalid_response_is_refused(answer: dict[str, Any], code: str) -> None:
    """Each flaw is named alone, and all but a rejection lead to another approval request."""
    rejected = code == "rejected"
    kind = RefusalKind.REJECTED if rejected else RefusalKind.REAPPROVAL_REQUIRED
    assert codes(refused(verdict(answer=make.answer(**answer)), kind)) == {code}


def test_a_rejection_needs_nothing_that_an_approval_needs() -> None:
    """The requester may withdraw, and a rejection needs no acknowledgement of warnings."""
    plan = make.plan(warnings=("billing",))
    answer = make.answer(decision="reject", approver="ada@example.com", plan_digest=plan.digest)
    found = verdict(
        approval_request=make.approval_request(plan),
        answer=answer,
        gate_input=make.gate_input(plan=plan),
    )
    assert codes(refused(found, RefusalKind.REJECTED)) == {"rejected"}


def test_without_four_eyes_the_requester_may_approve() -> None:
    """Requester and approver are compared only with four eyes."""
    request = make.REQUEST.model_copy(update={"four_eyes": False})
    plan = make.plan(request=request)
    answer = make.answer(plan_digest=plan.digest, approver="ada@example.com")
    gate_input = make.gate_input(plan=plan, pinned=request)
    permitted(
        verdict(approval_request=make.approval_request(plan), answer=answer, gate_input=gate_input)
    )


def test_warnings_must_be_acknowledged() -> None:
    """A plan with warnings needs the acknowledgement, one without does not."""
    gate_input = make.gate_input(plan=make.plan(warnings=("billing (unknown)",)))
    assert codes(approved(gate_input)) == {"warnings"}
    digest = gate_input.plan.digest
    answer = make.answer(plan_digest=digest, acknowledge_warnings=True)
    permitted(verdict(answer=answer, gate_input=gate_input))


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
    assert code in codes(refused(approved(with_facts(**changes)), RefusalKind.BLOCKED))


def test_a_version_destroyed_long_ago_blocks_nothing() -> None:
    """Only a scheduled destruction blocks, because it can still be cancelled."""
    assert isinstance(approved(with_facts(versions=(make.version(2, "DESTROYED"),))), Permit)


def test_only_a_validation_that_is_too_old_is_worth_a_repeat() -> None:
    """If there is any other reason, a repeat of the reads does not help."""
    late = MONOTONIC + FRESHNESS_SECONDS
    archived = with_facts(workspace_archived=True)
    outcome = refused(approved(make.gate_input(), monotonic=late), RefusalKind.REAPPROVAL_REQUIRED)
    assert outcome.is_stale_validation_only
    for gate_input in (make.gate_input(), archived):
        rejected = make.answer(decision="reject")
        outcome = refused(
            verdict(answer=rejected, gate_input=gate_input, monotonic=late), RefusalKind.REJECTED
        )
        assert not outcome.is_stale_validation_only
    outcome = refused(approved(archived, monotonic=late), RefusalKind.BLOCKED)
    assert not outcome.is_stale_validation_only


def test_a_prerequisite_that_newly_fails_stops() -> None:
    """The checks are read again after the response."""
    assert codes(verdict(gate_input=make.gate_input(failed_checks=("Billing",)))) == {"checks"}


@pytest.mark.parametrize(
    ("seconds", "refused"), [(-1, False), (0, False), (1, True), (86_400, True)]
)
def test_the_expiry_is_compared_with_the_time_of_the_gate(seconds: float, refused: bool) -> None:
    """The gate permits until the expiry, to the second, whatever the response's own time was."""
    approval_request = make.approval_request()
    outcome = verdict(
        approval_request=approval_request,
        now=approval_request.expires_at + timedelta(seconds=seconds),
    )
    assert (codes(outcome) == {"expired"}) is refused


@given(st.floats(min_value=-1e6, max_value=1e6), st.floats(min_value=-1e6, max_value=1e6))
def test_only_a_validation_after_the_response_and_within_a_minute_is_valid(
    started_after: float, age: float
) -> None:
    started = make.LOADED_AT + started_after
    monotonic = started + age
    proof = ValidationProof(succeeded=True, started_at=started, error=None, request_id=None)
    outcome = verdict(gate_input=make.gate_input(validation=proof), monotonic=monotonic)
    may = started >= make.LOADED_AT and 0 <= monotonic - started <= FRESHNESS_SECONDS
    assert isinstance(outcome, Permit) is may


def test_a_request_that_is_not_the_pinned_one_stops() -> None:
    """It is refused even if the digest of the changed plan was approved."""
    other = make.REQUEST.model_copy(update={"requested_by": "eve@example.com"})
    assert "request" in codes(approved(make.gate_input(plan=make.plan(request=other))))


def test_a_difference_is_named() -> None:
    outcome = verdict(gate_input=with_facts(workspace_name="Renamed"))
    refusal = refused(outcome, RefusalKind.REAPPROVAL_REQUIRED)
    assert "workspace_name: was 'Fresh', is 'Renamed'" in str(refusal)


def test_a_rejection_outweighs_a_block_and_a_block_another_request() -> None:
    archived = with_facts(workspace_archived=True)
    rejected = make.answer(decision="reject")
    refused(verdict(answer=rejected, gate_input=archived), RefusalKind.REJECTED)
    refused(verdict(gate_input=archived), RefusalKind.BLOCKED)


def test_a_permit_expires() -> None:
    """It expires a minute after the validation started, or at the request's expiry."""
    permit = permitted(verdict())
    until = make.LOADED_AT + 1 + FRESHNESS_SECONDS
    assert permit.is_fresh(now=make.NOW, monotonic=until)
    assert not permit.is_fresh(now=make.NOW, monotonic=until + 0.1)
    assert permit.is_fresh(now=permit.expires_at, monotonic=until)
    assert not permit.is_fresh(now=permit.expires_at + timedelta(seconds=1), monotonic=until)


NAME = "payments-prod"
NEW = OnboardingRequest(
    create_workspace=NAME,
    project_id="acme-kms-prod",
    requested_by="ada@example.com",
    crypto_key=make.WORKSPACE,
)


def creating(*, others: tuple[str, ...] = (), **answer: Any) -> Permit | Refusal:
    """The verdict on an approval to create a workspace, with these changes of the response."""
    facts = make.facts(workspace_id=None, workspace_name=NAME)
    live = make.facts(workspace_id=None, workspace_name=NAME, same_name_workspaces=others)
    plan = make.plan(facts, NEW)
    given = {"workspace_id": None, "workspace_name": NAME, "plan_digest": plan.digest} | answer
    return verdict(
        approval_request=make.approval_request(plan),
        answer=make.answer(**given),
        gate_input=make.gate_input(facts=live, plan=make.plan(live, NEW), pinned=NEW),
    )


@pytest.mark.parametrize(
    ("before", "permits"), [(timedelta(minutes=4), True), (timedelta(minutes=6), False)]
)
def test_a_clock_that_was_set_back_makes_no_old_approval_valid(
    before: timedelta, permits: bool
) -> None:
    """The clocks of two workers may differ by five minutes, as those of signers may."""
    now = make.approval_request().requested_at - before
    outcome = verdict(now=now)
    if permits:
        permitted(outcome)
    else:
        refused(outcome, RefusalKind.REAPPROVAL_REQUIRED)
        assert "was set back" in str(outcome)


def test_a_validation_ages_while_the_machine_is_suspended() -> None:
    """On Linux `time.monotonic()` does not advance then, so another clock is used."""
    assert time.CLOCK_BOOTTIME == STEADY


def test_the_exact_name_gets_a_permit_to_create() -> None:
    """It has the new workspace's name from the pinned request, and no id."""
    permit = permitted(creating())
    assert (permit.workspace_id, permit.request.create_workspace) == (None, NAME)


@pytest.mark.parametrize(
    "answer",
    [
        {"workspace_name": None},
        {"workspace_name": "payments"},
        {"workspace_name": f"{NAME} "},
        {"workspace_name": f"{NAME}\n"},
        {"workspace_name": NAME.upper()},
        {"workspace_name": NAME.replace("a", "а", 1)},
        {"workspace_id": make.WORKSPACE},
        {"workspace_name": None, "workspace_id": NAME},
    ],
)
def test_anything_but_the_exact_name_is_refused(answer: dict[str, Any]) -> None:
    """For example a homoglyph, a space, a line break, an id instead of the name or besides it."""
    refusal = refused(creating(**answer), RefusalKind.REAPPROVAL_REQUIRED)
    assert [reason.code for reason in refusal.reasons] == ["workspace_id"]


def test_a_workspace_of_the_name_blocks_it_and_is_named() -> None:
    """It blocks whoever approves: creating would make a second one."""
    refusal = refused(creating(others=("wrkspc_01Another",)), RefusalKind.BLOCKED)
    assert "wrkspc_01Another" in str(refusal)


def adopting(**parts: Any) -> set[str]:
    """The refusal codes for adding label and grants to an existing key; empty if permitted."""
    bare = make.facts(key=make.key(labels={}), granted_roles=frozenset())
    facts = parts.get("facts", bare)
    plan = build_plan(facts, make.REQUEST, CheckReport(checks=()), adopting=True)
    none_yet = ValidationProof(succeeded=False, started_at=0.0, error=None, request_id=None)
    failed = {"failed_checks": parts.get("failed_checks", ())}
    gate_input = make.gate_input(facts=facts, plan=plan, validation=none_yet, **failed)
    answer = {"plan_digest": plan.digest, "acknowledge_warnings": True} | parts.get("answer", {})
    refusal = adoption_refusal(
        make.approval_request(plan),
        make.answer(**answer),
        gate_input,
        now=parts.get("now", make.NOW),
    )
    return codes(refusal) if refusal else set()


def test_an_approval_of_an_adoption_permits_label_and_grants_before_any_validation() -> None:
    """A validation is possible only with label and grants."""
    assert adopting() == set()


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({"answer": {"decision": "reject"}}, "rejected"),
        ({"answer": {"workspace_id": "wrkspc_01SomethingElse"}}, "workspace_id"),
        ({"answer": {"approver": make.REQUEST.requested_by}}, "four_eyes"),
        ({"answer": {"acknowledge_warnings": False}}, "warnings"),
        ({"answer": {"plan_digest": "0" * 64}}, "plan"),
        ({"now": make.NOW + timedelta(days=30)}, "expired"),
        ({"failed_checks": ("billing",)}, "checks"),
        ({"facts": make.facts(workspace_external_key_id="ekey_01Other")}, "attached"),
        ({"facts": make.facts(workspace_archived=True)}, "archived"),
        ({"facts": make.facts(key=make.key(primary=None))}, "primary"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_refuse_an_attach_refuses_an_adoption(parts: dict[str, Any], code: str) -> None:
    """Except the reasons that only label and grants can resolve."""
    assert code in adopting(**parts)


def unlike(**changes: Any) -> GateInput:
    """A correct gate input except for these changes, which are not in the plan."""
    return make.gate_input(**changes)


_PLAN = make.plan(warnings=("billing",))
WORDS: dict[str, tuple[dict[str, Any], RefusalKind, str]] = {
    "rejected": (
        {"answer": make.answer(decision="reject", comment="wrong key")},
        RefusalKind.REJECTED,
        "rejected: wrong key",
    ),
    "workspace_id": (
        {"answer": make.answer(workspace_id="wrkspc_01SomethingElse")},
        RefusalKind.REAPPROVAL_REQUIRED,
        "the typed workspace id is another one",
    ),
    "four_eyes": (
        {"answer": make.answer(approver=make.REQUEST.requested_by)},
        RefusalKind.REAPPROVAL_REQUIRED,
        "four eyes: the approver is the requester; another person must approve",
    ),
    "approver": (
        {"answer": make.answer(approver=" ")},
        RefusalKind.REAPPROVAL_REQUIRED,
        "the response names no approver",
    ),
    "warnings": (
        {
            "approval_request": make.approval_request(_PLAN),
            "answer": make.answer(plan_digest=_PLAN.digest),
            "gate_input": unlike(plan=_PLAN),
        },
        RefusalKind.REAPPROVAL_REQUIRED,
        "the warnings were not acknowledged",
    ),
    "stale_request": (
        {"gate_input": unlike(latest_request_number=2)},
        RefusalKind.BLOCKED,
        "this responds to approval request 1, the latest is 2",
    ),
    "expired": (
        {"now": make.NOW + timedelta(days=7)},
        RefusalKind.REAPPROVAL_REQUIRED,
        "the approval request expired at 2026-11-30 12:00:00 UTC",
    ),
    "validation_age": (
        {"monotonic": make.LOADED_AT + 100},
        RefusalKind.REAPPROVAL_REQUIRED,
        "the validation is older than 60 s",
    ),
    "validation": (
        {
            "gate_input": unlike(
                validation=ValidationProof(
                    succeeded=False, started_at=make.LOADED_AT + 1, error="denied", request_id=None
                )
            )
        },
        RefusalKind.BLOCKED,
        f"Anthropic's validation of {make.KEY_NAME} failed: denied",
    ),
    "validation_order": (
        {
            "gate_input": unlike(response_loaded_at=make.LOADED_AT + 1.5),
        },
        RefusalKind.BLOCKED,
        "the validation was started before the response was loaded",
    ),
    "plan": (
        {"gate_input": unlike(plan=make.plan(make.facts(workspace_name="X", checks_endpoint="Y")))},
        RefusalKind.REAPPROVAL_REQUIRED,
        (
            "not the approved plan: checks_endpoint: was 'googleapis.com', is 'Y'; "
            "workspace_name: was 'Fresh', is 'X'"
        ),
    ),
    "request": (
        {"gate_input": unlike(pinned=make.REQUEST.model_copy(update={"four_eyes": False}))},
        RefusalKind.BLOCKED,
        "the request is not the pinned one",
    ),
    "archived": (
        {"gate_input": unlike(facts=make.facts(workspace_archived=True))},
        RefusalKind.BLOCKED,
        "the workspace is archived",
    ),
    "attached": (
        {"gate_input": unlike(facts=make.facts(workspace_external_key_id="ekey_01Other"))},
        RefusalKind.BLOCKED,
        "the workspace already has the key ekey_01Other",
    ),
    "same_name_workspaces": (
        {"gate_input": unlike(facts=make.facts(same_name_workspaces=("wrkspc_1", "wrkspc_2")))},
        RefusalKind.BLOCKED,
        "a workspace of this name exists by now: wrkspc_1, wrkspc_2",
    ),
    "primary": (
        {"gate_input": unlike(facts=make.facts(key=make.key(primary=None)))},
        RefusalKind.BLOCKED,
        f"the primary version of {make.KEY_NAME} is MISSING",
    ),
    "scheduled_for_destruction": (
        {"gate_input": unlike(facts=make.facts(versions=(make.version(2, "DESTROY_SCHEDULED"),)))},
        RefusalKind.BLOCKED,
        f"scheduled for destruction: {make.KEY_NAME}/cryptoKeyVersions/2",
    ),
    "label": (
        {"gate_input": unlike(facts=make.facts(key=make.key(labels={})))},
        RefusalKind.BLOCKED,
        f"{make.KEY_NAME} lacks the organization label",
    ),
    "grants": (
        {"gate_input": unlike(facts=make.facts(granted_roles=frozenset()))},
        RefusalKind.BLOCKED,
        "missing on the key: roles/cloudkms.cryptoKeyEncrypterDecrypter, roles/cloudkms.viewer",
    ),
    "external_key": (
        {"gate_input": unlike(facts=make.facts(external_key_name="another"))},
        RefusalKind.BLOCKED,
        "external key ekey_01SandboxKeyOne is of another",
    ),
    "checks": (
        {"gate_input": unlike(failed_checks=("billing", "APIs"))},
        RefusalKind.BLOCKED,
        "prerequisites that fail now: billing, APIs",
    ),
}


@pytest.mark.parametrize("code", WORDS)
def test_each_reason_says_what_is_wrong_and_what_follows(code: str) -> None:
    """People act on this sentence, and the kind decides how the run continues."""
    parts, kind, text = WORDS[code]
    outcome = verdict(**parts)
    assert isinstance(outcome, Refusal)
    assert outcome.reasons == (RefusalReason(code, text, kind),)


def test_several_reasons_are_joined() -> None:
    outcome = verdict(gate_input=unlike(failed_checks=("billing",), latest_request_number=2))
    assert str(outcome) == (
        "this responds to approval request 1, the latest is 2; prerequisites that fail now: billing"
    )


def test_a_validation_is_valid_for_a_whole_minute() -> None:
    """It is valid at its start and in its sixtieth second."""
    started = make.gate_input().validation.started_at
    for monotonic in (started, started + FRESHNESS_SECONDS):
        permitted(verdict(monotonic=monotonic))


def test_a_plan_that_nobody_saw_is_named_as_such() -> None:
    """The response has a digest that was never shown."""
    outcome = refused(
        verdict(answer=make.answer(plan_digest="0" * 64)), RefusalKind.REAPPROVAL_REQUIRED
    )
    assert str(outcome) == "not the approved plan: the response is for another plan"


def test_another_key_than_the_requested_one_is_named() -> None:
    other = make.facts(key=make.key(name=f"{make.KEY_NAME}x"))
    outcome = verdict(gate_input=unlike(facts=other))
    assert f"the key is {make.KEY_NAME}x, asked for was {make.KEY_NAME}" in str(outcome)
