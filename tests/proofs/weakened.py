"""Take one guard away at a time: the model must then find an unsafe attach.

That a model finds no unsafe attach proves something only if it would find one.
"""

from __future__ import annotations

import json
import sys
import time
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
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse
from cmek.onboarding.gate import STEADY, VALIDATION_AGE, GateInput, Permit, Refusal
from cmek.onboarding.plan import Plan
from cmek.onboarding.request import OnboardingRequest
from tasks.crypto_key import KeyOrigin
from tests.proofs.schedules import Told, explored, modelled
from tests.support.world import LABEL, VALUE

SCHEDULES: Final = 400
"""The most schedules that are tried until an unsafe attach is found."""
STEPS: Final = 4
"""Steps of a schedule after its opening: few, since mostly the opening shows a missing guard."""
SEEDS: Final = 20
NOTICED: Final = 19 / 20
"""The share of seeds under which the model must notice a missing guard."""
_RULES: Final = (
    "_check_response",
    "_check_signatures",
    "_check_time",
    "_check_plan",
    "_check_facts",
)

Weakness = Callable[[ExitStack], None]


def without(*codes: str) -> Weakness:
    """A gate without these reasons."""

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
    """The run uses its present parameters, not the pinned ones."""

    async def unpinned(form: Any, resolve: Any, *, asked: bool) -> Any:
        return await resolve(form)

    # the gate compares with the pinned request, too: both guards are the one that is taken away
    without("request")(stack)
    stack.enter_context(patch.object(flows.onboard, "pin_request", unpinned))


def _deaf_to_rejections(stack: ExitStack) -> None:
    """Neither the gate nor the flow before it asks what the response decides."""

    async def goes_on(request: Any, pending: Any, response: Any) -> Any:
        loaded_at = time.clock_gettime(STEADY)
        if pending.approval_request.plan.adopts_key:
            refused = await flows._attach._adopt(request, pending, response)
            if refused is not None:
                return refused
        return await flows._attach._attach_in_tries(request, pending, response, loaded_at)

    without("rejected")(stack)
    stack.enter_context(patch.object(flows._attach, "_rejected", goes_on))


def _ever_fresh(*codes: str) -> Weakness:
    """Neither the gate nor the sender of the request checks the time."""

    def weaken(stack: ExitStack) -> None:
        without(*codes)(stack)
        permit = cmek.onboarding.gate.Permit
        stack.enter_context(patch.object(permit, "is_fresh", return_value=True))

    return weaken


def not_covering(fields: Sequence[str], *codes: str) -> Weakness:
    """A plan whose digest leaves out some fields, and a gate without these reasons."""

    def weaken(stack: ExitStack) -> None:
        without(*codes)(stack)
        real = cmek.onboarding.gate._check_plan

        def blind(
            approval_request: ApprovalRequest, response: ApprovalResponse, live: Plan
        ) -> list[Any]:
            # with the approved values of these fields a change of them cannot be noticed
            as_shown = {name: getattr(approval_request.plan, name) for name in fields}
            return real(approval_request, response, live.model_copy(update=as_shown))

        stack.enter_context(patch.object(cmek.onboarding.gate, "_check_plan", blind))

    return weaken


def _unlabelled(stack: ExitStack) -> None:
    """Nobody checks the organization label: neither we nor Anthropic's own validation.

    Anthropic refuses a key without it (`sandbox/admin/external_keys.py`, from the guide). So the
    gate's check alone could be missing without any unsafe attach.
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
    """A label alone proves that a key is ours."""

    async def ours(
        request: OnboardingRequest, key: CryptoKey, organization: UUID, **known: Any
    ) -> KeyOrigin:
        return KeyOrigin.OURS if has_organization_label(key, organization) else KeyOrigin.UNPROVEN

    stack.enter_context(patch.object(tasks.crypto_key, "key_origin", ours))


def _adopted_at_once(stack: ExitStack) -> None:
    """Label and grants are added to an existing key, whatever the response is."""
    stack.enter_context(patch.object(flows._attach, "adoption_refusal", return_value=None))


WEAKNESSES: Final[dict[str, Weakness]] = {
    "rejected": _deaf_to_rejections,
    **{code: without(code) for code in ("four_eyes", "signature", "plan")},
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
"""Not listed: reasons that another guard gives too, such as the form's schema, Anthropic's own
validation (which also notices a missing grant), or the last read of the workspace."""


def noticed_after(name: str, seed: int) -> int | None:
    """The number of schedules until the model notices, or None when it does not."""
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
    """The median number of schedules until each missing guard is noticed; `most` if it never is."""
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
