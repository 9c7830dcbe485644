"""Approval requests: a suspended run with a form, and the response that comes back through it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from prefect import get_client
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field, ValidationError, create_model

from cmek.errors import CmekError
from cmek.markdown import code
from cmek.names import Email
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse, exact_pattern
from cmek.onboarding.plan import Plan
from cmek.onboarding.reports import approval_summary
from cmek.signatures.statement import MAX_TEXT
from tasks.runs import current_run_id

MAX_APPROVAL_REQUESTS: Final = 4
"""The first, and at most three more after a difference."""


class ResponseMissingError(CmekError):
    """The run went on without a response that fits the form; nothing was attached."""


class ApprovalRequestLostError(CmekError):
    """The record of the request is gone with the result storage; nothing was attached."""


async def approval_request_numbers() -> list[int]:
    """Numbers of this attempt's approval requests at which the run has suspended, by the server."""
    prefix = f"attach-{attempt()}-"
    async with get_client() as client:
        run = await client.read_flow_run(current_run_id())
    keys = run.empirical_policy.pause_keys or set()
    return sorted(int(key.removeprefix(prefix)) for key in keys if key.startswith(prefix))


def attempt() -> int:
    """1 for a new run, also after a suspension; one more after each Retry."""
    count: int = flow_run.run_count
    return count


def new_approval_request(
    number: int, plan: Plan, signatures: int, reapproval_reasons: tuple[str, ...]
) -> ApprovalRequest:
    """An approval request for this plan, which expires as the request says, counted from now."""
    now = datetime.now(UTC)
    return ApprovalRequest(
        run_id=str(current_run_id()),
        attempt=attempt(),
        number=number,
        nonce=secrets.token_hex(16),
        signatures=signatures,
        plan=plan,
        digest=plan.digest,
        requested_at=now,
        expires_at=now + timedelta(hours=plan.request.approval_expires_hours),
        reapproval_reasons=reapproval_reasons,
    )


async def wait_for_response(approval_request: ApprovalRequest, text: str) -> ApprovalResponse:
    """Suspend until there is a response; in the process that goes on, load it.

    Raises:
        ResponseMissingError: The run was resumed without one, or with one beside the form.
    """
    left = (approval_request.expires_at - datetime.now(UTC)).total_seconds()
    try:
        given = await asuspend_flow_run(
            wait_for_input=approval_form(approval_request, text),
            timeout=max(1, int(left)),
            key=approval_request.key,
        )
    except (ValidationError, ValueError, TypeError) as error:
        raise ResponseMissingError(
            f"{approval_request.key}: no response that fits the form came back, so nothing was "
            f"attached. Retry the run for a new approval request"
        ) from error
    if given is None:
        raise ResponseMissingError(
            f"{approval_request.key}: no response came back, so nothing was attached"
        )
    return ApprovalResponse.model_validate(given.model_dump())


_Field = tuple[Any, dict[str, Any]]
"""The type of a form's field, and the arguments of Pydantic's `Field`."""


def approval_form(approval_request: ApprovalRequest, text: str) -> type[RunInput]:
    """The form of one approval request: required fields only, every rule in its JSON schema.

    Prefect checks a response against the schema before it resumes the run; a validator of ours
    would run only after that.
    """
    defined: dict[str, Any] = {}
    for position, (name, (kind, rules)) in enumerate(_fields(approval_request)):
        extra = {"position": position} | rules.pop("json_schema_extra", {})
        defined[name] = (kind, Field(**rules, json_schema_extra=extra))
    form: type[RunInput] = create_model("AttachApproval", __base__=RunInput, **defined)
    form._description = text  # noqa: SLF001  # where Prefect keeps a form's text
    return form


def _fields(approval_request: ApprovalRequest) -> Iterator[tuple[str, _Field]]:
    plan, digest = approval_request.plan, approval_request.digest
    summary = approval_summary(approval_request)
    yield "decision", _field(Literal["approve", "reject"], "Decision", summary)
    if plan.workspace_id is None:
        yield "workspace_name", _typed("Workspace name, typed", "Type", plan.workspace_name)
    else:
        yield "workspace_id", _typed("Workspace id, typed", "Type", plan.workspace_id)
    unverified = "Unverified: open-source Prefect can't check it."
    yield "approver", _field(Email, "Your e-mail address", unverified)
    why = "Why you approve or reject."
    yield "comment", _field(str, "Comment", why, min_length=1, max_length=2000)
    kind, rules = _typed("Plan digest", "Copy", digest)
    # what `cmek approve` reads; it checks that the digest is of this plan
    carried = {"approval_request": approval_request.model_dump(mode="json")}
    yield "plan_digest", (kind, rules | {"json_schema_extra": carried})
    if plan.warnings:
        needed = "Needed to approve: " + ", ".join(plan.warnings)
        yield "acknowledge_warnings", _field(bool, "I have read the warnings", needed)
    if approval_request.signatures:
        signed = "What the command above prints. To reject, a dash is enough."
        limits = {"min_length": 1, "max_length": MAX_TEXT}
        yield "signed_approvals", _field(str, "Signed approval", signed, **limits)


def _field(kind: Any, title: str, description: str, **rules: Any) -> _Field:  # noqa: ANN401 - a type
    return kind, {"title": title, "description": description} | rules


def _typed(title: str, verb: str, text: str) -> _Field:
    """A field that takes exactly this text."""
    return _field(str, title, f"{verb} {code(text)}", pattern=exact_pattern(text))
