"""Whether verified statements answer this ask. Pure; the gate turns each flaw into a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cmek.approval import Answer, Ask, same_person
from cmek.plan import Plan
from cmek.signatures.keygen import Verified
from cmek.signatures.statement import Statement

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far an approver's clock may be from the worker's."""


@dataclass(frozen=True, slots=True)
class Signatures:
    """What was found about the signatures of one answer."""

    required: int
    """0: a typed approval is enough on this worker."""
    verified: tuple[Verified, ...] = ()
    problems: tuple[str, ...] = ()
    """Why others do not count."""


def flaws(
    ask: Ask, answer: Answer, live: Plan, signatures: Signatures, *, now: datetime
) -> tuple[str, ...]:
    """Why these signatures do not make the answer count; empty when they do.

    One flawed signature spoils the answer, also when enough good ones are beside it: something
    is going on that a person should look at.
    """
    signed = [one.approval.statement for one in signatures.verified]
    found = [
        *signatures.problems,
        *(flaw for statement in signed for flaw in _of_one(ask, answer, live, statement, now)),
        *_of_people(live, signatures),
    ]
    if signed and not any(_gives(statement, answer) for statement in signed):
        found.append("no statement has the approver and the comment of the answer itself")
    return tuple(found)


def _gives(statement: Statement, answer: Answer) -> bool:
    return statement.approver == answer.approver and statement.comment == answer.comment


def _of_one(
    ask: Ask, answer: Answer, live: Plan, signed: Statement, now: datetime
) -> Iterator[str]:
    compared = {
        "run": (signed.run_id, ask.run_id),
        "ask": (signed.ask, ask.key),
        "ask (its nonce is not this one's)": (signed.nonce, ask.nonce),
        "plan": (signed.plan_digest, live.digest),
        "workspace": (
            (signed.workspace_id, signed.workspace_name),
            (live.request.workspace_id, live.request.create_workspace),
        ),
        "key": (signed.key_name, live.key_name),
        "decision": (signed.decision, answer.decision),
        "expiry": (signed.expires_at, ask.expires_at),
    }
    for what, (said, wanted) in compared.items():
        if said != wanted:
            yield f"{signed.approver} has signed for another {what}"
    if now > signed.expires_at:
        yield f"the signature of {signed.approver} expired at {signed.expires_at}"
    if signed.issued_at > now + CLOCK_SKEW:
        yield f"{signed.approver} signed in the future ({signed.issued_at}): set the clocks right"
    if signed.issued_at < ask.asked_at - CLOCK_SKEW:
        yield f"{signed.approver} signed before the ask was made ({signed.issued_at})"


def _of_people(live: Plan, signatures: Signatures) -> Iterator[str]:
    """Each approver and each key counts once; the requester never, where others must sign."""
    people: list[str] = []
    for one in signatures.verified:
        name = one.approval.statement.approver
        if any(same_person(name, other) for other in people):
            yield f"{name} has signed more than once"
        people.append(name)
        excluded = live.request.four_eyes or signatures.required > 1
        if excluded and same_person(name, live.request.requested_by):
            yield f"{name} has asked for this, so somebody else must sign"
    if len({one.fingerprint for one in signatures.verified}) < len(people):
        yield "one key has signed in more than one name"
    if len(people) < signatures.required:
        yield f"{len(people)} of {signatures.required} required signatures"
