"""Take one guard away at a time: the model must then find an unsafe attach.

A model that finds nothing proves nothing until it is seen to find something.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import Any, Final
from unittest.mock import patch

import cmek.onboarding.gate
import flows._attach
import flows.onboard
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse
from cmek.onboarding.gate import GateInput, Permit, Refusal
from tests.proofs.schedules import Told, explored, modelled

SCHEDULES: Final = 400
"""Tried at most until an unsafe attach is found."""
SEEDS: Final = 20
NOTICED: Final = 19 / 20
"""Of the seeds, under how many the model must notice."""
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

    async def unpinned(form: Any, resolve: Any, *, asked: bool) -> Any:
        return await resolve(form)

    without("request")(stack)
    stack.enter_context(patch.object(flows.onboard, "pin_request", unpinned))


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


def noticed_after(name: str, seed: int) -> int | None:
    """How many schedules it takes until the model notices, or None when it does not."""
    with ExitStack() as stack:
        WEAKNESSES[name](stack)
        found = explored(Told, SCHEDULES, seed, shrink=False)
    sys.stderr.write(f"without {name}, seed {seed}: {found}\n")
    return found.schedules if found.unsafe else None


def judged(name: str, tries: Sequence[int | None]) -> str | None:
    """What is wrong with the model for this guard, or None."""
    seen = sum(one is not None for one in tries)
    if seen >= NOTICED * len(tries):
        return None
    return f"{name}: noticed under {seen} of {len(tries)} seeds"


def medians(tries: Mapping[str, Sequence[int | None]], most: int) -> dict[str, int]:
    """How many schedules it takes to notice each guard's absence; `most` where it never was."""
    return {name: round(median(one or most for one in found)) for name, found in tries.items()}


def main(seed: int, seeds: int, names: Sequence[str]) -> dict[str, Any]:
    """Take each guard away under several seeds."""
    with modelled():
        tries = {
            name: [noticed_after(name, seed + number) for number in range(seeds)] for name in names
        }
    problems = [said for name, found in tries.items() if (said := judged(name, found))]
    return {"tried": len(tries), "problems": problems, "medians": medians(tries, SCHEDULES)}


if __name__ == "__main__":
    first, seeds = int(sys.argv[1]), int((sys.argv[2:] or [str(SEEDS)])[0])
    sys.stdout.write(json.dumps(main(first, seeds, sys.argv[3:] or list(WEAKNESSES))) + "\n")
