"""Approval requests: a suspended run with a form, and the response that comes back through it."""

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

from cmek.errors import CmekError
from cmek.markdown import code
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse, exact_pattern
from cmek.onboarding.plan import Plan
from cmek.onboarding.reports import approval_summary
from cmek.onboarding.request import EMAIL
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


@dataclass(frozen=True, slots=True)
class _TypedWorkspace:
    """What the approver types to say which workspace is meant."""

    field: str
    title: str
    text: str


def _typed_workspace(plan: Plan) -> _TypedWorkspace:
    if plan.workspace_id is None:
        return _TypedWorkspace("workspace_name", "Workspace name, typed", plan.workspace_name)
    return _TypedWorkspace("workspace_id", "Workspace id, typed", plan.workspace_id)


_Fields = dict[str, tuple[Any, dict[str, Any]]]
"""By name: its type, and the arguments of Pydantic's `Field`."""


def approval_form(approval_request: ApprovalRequest, text: str) -> type[RunInput]:
    """The form of one approval request: required fields only, every rule in its JSON schema.

    Prefect checks a response against the schema before it resumes the run; a validator of ours
    would run only after that.
    """
    fields = _required_fields(approval_request) | _conditional_fields(approval_request)
    defined: dict[str, Any] = {}
    for position, (name, (kind, rules)) in enumerate(fields.items()):
        extra = {"position": position} | rules.pop("json_schema_extra", {})
        defined[name] = (kind, Field(**rules, json_schema_extra=extra))
    form: type[RunInput] = create_model("AttachApproval", __base__=RunInput, **defined)
    form._description = text  # noqa: SLF001  # where Prefect keeps a form's text
    return form


def _required_fields(approval_request: ApprovalRequest) -> _Fields:
    typed, digest = _typed_workspace(approval_request.plan), approval_request.digest
    return {
        "decision": (
            Literal["approve", "reject"],
            {"title": "Decision", "description": approval_summary(approval_request)},
        ),
        typed.field: (
            str,
            {
                "title": typed.title,
                "description": f"Type {code(typed.text)}",
                "pattern": exact_pattern(typed.text),
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
                "json_schema_extra": {"approval_request": approval_request.model_dump(mode="json")},
            },
        ),
    }


def _conditional_fields(approval_request: ApprovalRequest) -> _Fields:
    fields: _Fields = {}
    if approval_request.plan.warnings:
        fields["acknowledge_warnings"] = (
            bool,
            {
                "title": "I have read the warnings",
                "description": "Needed to approve: " + ", ".join(approval_request.plan.warnings),
            },
        )
    if approval_request.signatures:
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
