"""The gate before a workspace is created: the very name typed, and nothing else of that name."""

from __future__ import annotations

from typing import Any

import pytest

from cmek.onboarding.gate import Permit, Refusal, RefusalKind, decide
from cmek.onboarding.plan import LiveFacts
from cmek.onboarding.request import OnboardingRequest
from tests.support import facts as make

NAME = "payments-prod"
REQUEST = OnboardingRequest(
    create_workspace=NAME, project_id="acme-kms-prod", requested_by="ada@example.com",
    crypto_key=make.WORKSPACE,
)  # fmt: skip


def facts(**changes: Any) -> LiveFacts:
    return make.facts(workspace_id=None, workspace_name=NAME, **changes)


def verdict(live: LiveFacts | None = None, **answer: Any) -> Permit | Refusal:
    """What the gate says to an approval of the plan, with changes of facts or answer."""
    plan = make.plan(facts(), REQUEST)
    now = make.plan(live or facts(), REQUEST)
    given = {"workspace_id": None, "workspace_name": NAME, "plan_digest": plan.digest} | answer
    return decide(
        make.approval_request(plan),
        make.answer(**given),
        make.gate_input(facts=live or facts(), plan=now, pinned=REQUEST),
        now=make.NOW,
        monotonic=make.LOADED_AT + 2,
    )


def test_the_very_name_gets_a_permit_to_create() -> None:
    """It names the new workspace by the pinned request, and no id."""
    permit = verdict()
    assert isinstance(permit, Permit)
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
def test_anything_else_is_asked_again(answer: dict[str, Any]) -> None:
    """A homoglyph, a space, a line break, an id instead or besides."""
    refusal = verdict(**answer)
    assert isinstance(refusal, Refusal)
    assert [reason.code for reason in refusal.reasons] == ["workspace_id"]
    assert refusal.kind is RefusalKind.REAPPROVAL_REQUIRED


def test_an_id_where_a_name_is_asked_for_does_not_count_the_other_way_round() -> None:
    """For a workspace that exists, a name besides its id is one answer too many."""
    refusal = decide(
        make.approval_request(), make.answer(workspace_name="Fresh"), make.gate_input(),
        now=make.NOW, monotonic=make.LOADED_AT + 2,
    )  # fmt: skip
    assert isinstance(refusal, Refusal)
    assert [reason.code for reason in refusal.reasons] == ["workspace_id"]


def test_a_workspace_of_the_name_stops_it_and_is_named() -> None:
    """Whoever approves: creating would make a second one."""
    refusal = verdict(facts(same_name_workspaces=("wrkspc_01Another",)))
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.BLOCKED
    assert "wrkspc_01Another" in str(refusal)
