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
from uuid import UUID

import cmek.onboarding.gate
import flows._attach
import flows.onboard
import sandbox.admin.external_keys
import tasks.crypto_key
from cmek.gcp.resources import CryptoKey
from cmek.keys.conditions import has_organization_label
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse
from cmek.onboarding.gate import VALIDATION_AGE, GateInput, Permit, Refusal
from cmek.onboarding.plan import Plan
from cmek.onboarding.request import OnboardingRequest
from tasks.crypto_key import KeyOrigin
from tests.proofs.schedules import Told, explored, modelled
from tests.support.world import LABEL, VALUE

SCHEDULES: Final = 400
"""Tried at most until an unsafe attach is found."""
STEPS: Final = 4
"""Of a schedule, behind its opening: what tells a guard's absence is there, and more steps cost."""
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


def _ever_fresh(*codes: str) -> Weakness:
    """Neither the gate nor the sender of the request looks at the time."""

    def weaken(stack: ExitStack) -> None:
        without(*codes)(stack)
        permit = cmek.onboarding.gate.Permit
        stack.enter_context(patch.object(permit, "is_fresh", return_value=True))

    return weaken


def not_covering(fields: Sequence[str], *codes: str) -> Weakness:
    """A plan whose digest leaves out some fields, and a gate that does not give these reasons."""

    def weaken(stack: ExitStack) -> None:
        without(*codes)(stack)
        real = cmek.onboarding.gate._check_plan

        def blind(
            approval_request: ApprovalRequest, response: ApprovalResponse, live: Plan
        ) -> list[Any]:
            as_shown = {name: getattr(approval_request.plan, name) for name in fields}
            return real(approval_request, response, live.model_copy(update=as_shown))

        stack.enter_context(patch.object(cmek.onboarding.gate, "_check_plan", blind))

    return weaken


def _unlabelled(stack: ExitStack) -> None:
    """Nothing asks for the organization label: neither we nor Anthropic's own validation.

    Anthropic refuses a key without it (`sandbox/admin/external_keys.py`, after the guide), so that
    the gate's reason alone is never the last one.
    """
    not_covering(["organization_label", "warnings"], "label", "checks")(stack)
    real = sandbox.admin.external_keys._check

    def blind(world: Any, key_name: str) -> str | None:
        key = world.kms.crypto_keys[key_name]
        before = dict(key.labels)
        key.labels[LABEL] = VALUE
        try:
            return real(world, key_name)
        finally:
            key.labels.clear()
            key.labels.update(before)

    stack.enter_context(patch.object(sandbox.admin.external_keys, "_check", blind))


def _ours_by_label(stack: ExitStack) -> None:
    """Whoever can label a key makes it ours."""

    async def ours(
        request: OnboardingRequest, key: CryptoKey, organization: UUID, **known: Any
    ) -> KeyOrigin:
        return KeyOrigin.OURS if has_organization_label(key, organization) else KeyOrigin.UNPROVEN

    stack.enter_context(patch.object(tasks.crypto_key, "key_origin", ours))


def _adopted_at_once(stack: ExitStack) -> None:
    """Whatever the response is, label and grants are added to the key that existed."""
    stack.enter_context(patch.object(flows._attach, "adoption_refusal", return_value=None))


WEAKNESSES: Final[dict[str, Weakness]] = {
    **{code: without(code) for code in ("rejected", "four_eyes", "signature", "plan")},
    "expired": _ever_fresh("expired"),
    "the age of the validation": _ever_fresh(VALIDATION_AGE),
    "label": _unlabelled,
    "other users of the key": not_covering(["other_decrypters", "warnings"], "warnings"),
    "versions scheduled for destruction": not_covering(
        ["warnings"], "scheduled_for_destruction", "checks"
    ),
    "the plan read behind the answer": _own_plan,
    "the pinned request": _unpinned,
    "whose the key is": _ours_by_label,
    "adoption behind an approval": _adopted_at_once,
}
"""Not here: reasons that another guard gives too, such as the form's schema, Anthropic's own
validation (which also sees that a grant is gone), or the last read of the workspace."""


def noticed_after(name: str, seed: int) -> int | None:
    """How many schedules it takes until the model notices, or None when it does not."""
    with ExitStack() as stack:
        WEAKNESSES[name](stack)
        found = explored(Told, SCHEDULES, seed, shrink=False, steps=STEPS)
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
