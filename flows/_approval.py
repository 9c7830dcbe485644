"""The ask: a suspended run with a form, and the answer that comes back through it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from prefect import get_client
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field, ValidationError, create_model

from cmek.markdown import code
from cmek.onboarding.approval import Answer, Ask, literally
from cmek.onboarding.plan import Plan
from cmek.onboarding.reports import essence
from cmek.onboarding.request import EMAIL
from cmek.signatures.statement import MAX_TEXT
from tasks.runs import run_id

MAX_ASKS: Final = 4
"""One ask, and at most three more after a difference."""


class AnswerMissingError(Exception):
    """The run went on without an answer that fits the form; nothing was attached."""


class AskLostError(Exception):
    """The record of the ask is gone with the result storage; nothing was attached."""


async def asked_numbers() -> list[int]:
    """The numbers of this attempt's asks at which the run has suspended, by the server."""
    prefix = f"attach-{attempt()}-"
    async with get_client() as client:
        run = await client.read_flow_run(run_id())
    keys = run.empirical_policy.pause_keys or set()
    return sorted(int(key.removeprefix(prefix)) for key in keys if key.startswith(prefix))


def attempt() -> int:
    """1 for a fresh run, also after a suspension; one more after each Retry."""
    count: int = flow_run.run_count
    return count


def new_ask(number: int, plan: Plan, signatures: int, because: tuple[str, ...]) -> Ask:
    """An ask for this plan, counted from now."""
    now = datetime.now(UTC)
    return Ask(
        run_id=str(run_id()),
        attempt=attempt(),
        number=number,
        nonce=secrets.token_hex(16),
        signatures=signatures,
        plan=plan,
        digest=plan.digest,
        asked_at=now,
        expires_at=now + timedelta(hours=plan.request.approval_expires_hours),
        because=because,
    )


async def wait_for_answer(ask: Ask, text: str) -> Answer:
    """Suspend until somebody answers; in the process that goes on, load the answer.

    Raises:
        AnswerMissingError: Forced on, or answered past the form.
    """
    left = (ask.expires_at - datetime.now(UTC)).total_seconds()
    try:
        given = await asuspend_flow_run(
            wait_for_input=approval_form(ask, text), timeout=max(1, int(left)), key=ask.key
        )
    except (ValidationError, ValueError, TypeError) as error:
        raise AnswerMissingError(
            f"ask {ask.key} was left without an answer that fits its form, so nothing was "
            f"attached. Retry the run to be asked again"
        ) from error
    if given is None:
        raise AnswerMissingError(f"ask {ask.key} got no answer, so nothing was attached")
    return Answer.model_validate(given.model_dump())


@dataclass(frozen=True, slots=True)
class _Typed:
    """What the approver types to say which workspace is meant."""

    field: str
    title: str
    text: str


def _typed(plan: Plan) -> _Typed:
    if plan.workspace_id is None:
        return _Typed("workspace_name", "Workspace name, typed", plan.workspace_name)
    return _Typed("workspace_id", "Workspace id, typed", plan.workspace_id)


_Fields = dict[str, tuple[Any, dict[str, Any]]]
"""By name: its type, and what Pydantic's `Field` is told."""


def approval_form(ask: Ask, text: str) -> type[RunInput]:
    """The form of one ask: required fields only, every rule in its JSON schema.

    Prefect checks an answer against the schema before it resumes the run; a validator of ours
    would only speak up after that.
    """
    fields = _always_asked(ask) | _asked_when_needed(ask)
    told: dict[str, Any] = {}
    for position, (name, (kind, rules)) in enumerate(fields.items()):
        extra = {"position": position} | rules.pop("json_schema_extra", {})
        told[name] = (kind, Field(**rules, json_schema_extra=extra))
    form: type[RunInput] = create_model("AttachApproval", __base__=RunInput, **told)
    form._description = text  # noqa: SLF001  # where Prefect keeps a form's text
    return form


def _always_asked(ask: Ask) -> _Fields:
    typed, digest = _typed(ask.plan), ask.digest
    return {
        "decision": (
            Literal["approve", "reject"],
            {"title": "Decision", "description": essence(ask)},
        ),
        typed.field: (
            str,
            {
                "title": typed.title,
                "description": f"Type {code(typed.text)}",
                "pattern": literally(typed.text),
            },
        ),
        "approver": (
            str,
            {
                "title": "Your e-mail address",
                "description": "A claim: open-source Prefect can't verify it.",
                "pattern": f"^{EMAIL}$",
            },
        ),
        "comment": (
            str,
            {
                "title": "Comment",
                "description": "Why you approve or reject.",
                "min_length": 1,
                "max_length": 2000,
            },
        ),
        "plan_digest": (
            str,
            {
                "title": "Plan digest",
                "description": f"Copy {code(digest)}",
                "pattern": f"^{digest}$",
                # what `cmek approve` reads; it checks that the digest is of this plan
                "json_schema_extra": {"ask": ask.model_dump(mode="json")},
            },
        ),
    }


def _asked_when_needed(ask: Ask) -> _Fields:
    fields: _Fields = {}
    if ask.plan.warnings:
        fields["acknowledge_warnings"] = (
            bool,
            {
                "title": "I have read the warnings",
                "description": "Needed to approve: " + ", ".join(ask.plan.warnings),
            },
        )
    if ask.signatures:
        fields["signed_approvals"] = (
            str,
            {
                "title": "Signed approval",
                "description": "What the command above prints. To reject, a dash is enough.",
                "min_length": 1,
                "max_length": MAX_TEXT,
            },
        )
    return fields
