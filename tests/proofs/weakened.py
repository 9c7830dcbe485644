"""Take one guard away at a time: the model must then find an unsafe attach.

A model that finds nothing proves nothing until it is seen to find something.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import cmek.onboarding.gate
import flows._attach
import flows.onboard
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse
from cmek.onboarding.gate import GateInput, Permit, Refusal
from tests.proofs.schedules import modelled, unsafe_in

SCHEDULES: Final = 400
"""Tried at most until an unsafe attach is found."""
_RULES: Final = (
    "_check_response",
    "_check_signatures",
    "_check_time",
    "_check_plan",
    "_check_facts",
)

Weakness = Callable[[ExitStack], None]


def without(*codes: str) -> Weakness:
    """A gate that does not give these reasons."""

    def weaken(stack: ExitStack) -> None:
        for name in _RULES:
            rule = getattr(cmek.onboarding.gate, name)
            stack.enter_context(patch.object(cmek.onboarding.gate, name, _deaf(rule, codes)))

    return weaken


def _deaf(rule: Callable[..., list[Any]], codes: tuple[str, ...]) -> Callable[..., list[Any]]:
    def weakened(*arguments: Any) -> list[Any]:
        return [reason for reason in rule(*arguments) if reason.code not in codes]

    return weakened


def _own_plan(stack: ExitStack) -> None:
    """The gate gets the approval request's plan, not the one that was read after the response."""
    real = cmek.onboarding.gate.decide

    def stale(
        approval_request: ApprovalRequest,
        answer: ApprovalResponse,
        gate_input: GateInput,
        **times: Any,
    ) -> Permit | Refusal:
        return real(
            approval_request, answer, replace(gate_input, plan=approval_request.plan), **times
        )

    stack.enter_context(patch.object(flows._attach, "decide", stale))


def _unpinned(stack: ExitStack) -> None:
    """The parameters count as they are now."""

    async def unpinned(request: Any, *, asked: bool) -> Any:
        return request

    without("request")(stack)
    stack.enter_context(patch.object(flows.onboard, "pin_parameters", unpinned))


def _ever_fresh(stack: ExitStack) -> None:
    """Neither the gate nor the sender of the request checks the expiry."""
    without("expired")(stack)
    stack.enter_context(patch.object(cmek.onboarding.gate.Permit, "is_fresh", return_value=True))


WEAKNESSES: Final[dict[str, Weakness]] = {
    **{code: without(code) for code in ("rejected", "signature", "plan")},
    "expired": _ever_fresh,
    "label": without("label", "plan"),
    "the plan read behind the answer": _own_plan,
    "the pinned request": _unpinned,
}
"""Not here: reasons that another guard gives too, such as the form's schema, Anthropic's own
validation (which also sees that a grant is gone), or the last read of the workspace."""


def found(name: str, seed: int) -> str | None:
    """What the model says about this weakness, or None when it finds nothing."""
    with ExitStack() as stack:
        WEAKNESSES[name](stack)
        said = unsafe_in(SCHEDULES, seed, shrink=False)
    sys.stderr.write(f"without {name}: {said}\n")
    return said


if __name__ == "__main__":
    chosen = sys.argv[2:] or list(WEAKNESSES)
    with modelled():
        said = {name: found(name, int(sys.argv[1])) for name in chosen}
    missed = [
        f"the model did not notice that this was taken away: {n}" for n in said if said[n] is None
    ]
    sys.stdout.write(json.dumps({"tried": len(said), "problems": missed}) + "\n")
