"""Approval requests: a suspended run with a form, and the response that comes back through it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from prefect import get_client, get_run_logger
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field, GetJsonSchemaHandler, ValidationError, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from cmek.errors import CmekError
from cmek.models import TextRule
from cmek.names import Email
from cmek.onboarding.approval_page import approval_summary, plan_labels
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse, exactly
from cmek.onboarding.plan import Plan
from cmek.plain_text import plain
from cmek.signatures.statement import MAX_TEXT
from cmek.signatures.verification import excludes_requester
from cmek.tags import WAITING_TAG
from tasks.runs import current_run_id, never_ends_the_run, retag

MAX_APPROVAL_REQUESTS: Final = 4
"""The first, and at most three more after responses that did not permit the attach."""


class ResponseMissingError(CmekError):
    """The run continued without a response that fits the form; nothing was attached."""


class ApprovalRequestLostError(CmekError):
    """The record of the request is gone from the worker's records; nothing was attached."""


async def approval_request_numbers() -> list[int]:
    """Numbers of the approval requests at which this attempt has suspended, as the server says."""
    prefix = f"attach-{attempt()}-"
    async with get_client() as client:
        run = await client.read_flow_run(current_run_id())
    # the server's word only: the plan digest, not the number, binds a response to its request
    keys = run.empirical_policy.pause_keys or set()
    return sorted(int(key.removeprefix(prefix)) for key in keys if key.startswith(prefix))


def attempt() -> int:
    """1 for a new run; each Retry adds one, a suspension does not."""
    count: int = flow_run.run_count
    return count


def new_approval_request(
    number: int, plan: Plan, signatures: int, reapproval_reasons: tuple[str, ...]
) -> ApprovalRequest:
    """An approval request for this plan; it expires `approval_expires_hours` from now."""
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
    """Suspend until there is a response; load it in the process that continues the run.

    Raises:
        ResponseMissingError: The run was resumed without one, or with one that does not fit.
    """
    await _show_as_waiting(approval_request)
    left = (approval_request.expires_at - datetime.now(UTC)).total_seconds()
    try:
        given = await asuspend_flow_run(
            wait_for_input=approval_form(approval_request, text),
            # negative when loaded after the expiry: Prefect would raise; the gate refuses instead
            timeout=max(1, int(left)),
            # differs in each attempt: after a Retry the same key would load the old response
            key=approval_request.key,
        )
    # the API also stores responses that were never checked against the form
    except (ValidationError, ValueError, TypeError) as error:
        raise ResponseMissingError(
            f"{approval_request.key}: no response that fits the form came back, so nothing was "
            f"attached. Retry the run for a new approval request"
        ) from error
    if given is None:
        raise ResponseMissingError(
            f"{approval_request.key}: no response came back, so nothing was attached"
        )
    with never_ends_the_run(f"The tag {WAITING_TAG} stays on this run"):
        async with get_client() as client:
            await retag(client, without=WAITING_TAG)
    return ApprovalResponse.model_validate(given.model_dump())


WAITING_NAME: Final = " · waiting for approval"
"""Added to the name of a waiting run; Prefect restores the flow's own name when it continues."""


async def _show_as_waiting(approval_request: ApprovalRequest) -> None:
    """Show in name, tag, labels and log that the run waits, unless the wait is over."""
    async with get_client() as client:
        run = await client.read_flow_run(current_run_id())
        # suspended for this request before: this is the execution after the response
        if approval_request.key in (run.empirical_policy.pause_keys or ()):
            return
        name = run.name.removesuffix(WAITING_NAME) + WAITING_NAME
        # in front, because Prefect's pages show only the first tags
        await client.update_flow_run(run.id, name=name, tags=[WAITING_TAG, *run.tags])
        await client.update_flow_run_labels(run.id, plan_labels(approval_request))
    logging.getLogger("prefect.flow_runs").addFilter(_suspension_is_no_error)
    get_run_logger().info(waiting_line(approval_request))


def waiting_line(approval_request: ApprovalRequest) -> str:
    """Who may approve, how, and until when; for the run's log."""
    request, required = approval_request.plan.request, approval_request.signatures
    who = f"Anyone but {request.requested_by}" if request.four_eyes else "Anyone"
    if required:
        but = ", not the requester," if excludes_requester(request, required) else ""
        who = f"{required} of this worker's signers{but}"
    return plain(
        f"Waiting for an approval until {approval_request.expires_at:%Y-%m-%d %H:%M %Z}. {who} may "
        f"approve: `cmek approve {approval_request.run_id}`, or Resume in this run's menu"
    )


def _suspension_is_no_error(record: logging.LogRecord) -> bool:
    """Log a suspension as INFO: Prefect logs every state but Completed as an error."""
    if record.getMessage().startswith("Finished in state Suspended("):
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


class _Form(RunInput):
    """Base of every approval form: some fields are required to approve, but not to reject."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        needed = {name: one for name, one in _TO_APPROVE.items() if name in resolved["properties"]}
        if needed:
            resolved["if"] = {"properties": {"decision": {"const": "approve"}}}
            resolved["then"] = {"required": list(needed), "properties": needed}
        return schema


_TO_APPROVE: Final[dict[str, dict[str, Any]]] = {
    "acknowledge_warnings": {"const": True},
    "signed_approvals": {"minLength": 1},
}
"""Rules for an approval only, not for a rejection; the server checks them before it resumes."""


_Field = tuple[Any, dict[str, Any]]
"""The type of a form's field, and the arguments of Pydantic's `Field`."""


def approval_form(approval_request: ApprovalRequest, text: str) -> type[RunInput]:
    """The form of one approval request, with every rule in its JSON schema.

    Prefect checks a response against the schema before it resumes the run; a validator of ours
    would run only after that. The fields that bind a response to its request have no defaults:
    else Prefect would accept a resume without any response.
    """
    defined: dict[str, Any] = {}
    for position, (name, (kind, rules)) in enumerate(_fields(approval_request)):
        extra = {"position": position} | rules.pop("json_schema_extra", {})
        defined[name] = (kind, Field(**rules, json_schema_extra=extra))
    form: type[RunInput] = create_model("AttachApproval", __base__=_Form, **defined)
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
    if plan.to_acknowledge:
        titles = "; ".join(plan.to_acknowledge)
        needed = f"Needed to approve, not to reject: {plain(titles)}."
        yield "acknowledge_warnings", _field(bool, "I accept the warnings", needed, default=False)
    if approval_request.signatures:
        signed = "What the command above prints. Not needed to reject."
        limits = {"default": "", "max_length": MAX_TEXT}
        yield "signed_approvals", _field(str, "Signed approval", signed, **limits)
    kind, rules = _typed("Plan digest", "Of the plan above:", digest)
    # `cmek approve` reads the request from here and checks that the digest is that of its plan.
    # The schema's default only prefills the form: the model requires the field
    carried = {"approval_request": approval_request.model_dump(mode="json"), "default": digest}
    yield "plan_digest", (kind, rules | {"json_schema_extra": carried})


def _field(kind: Any, title: str, description: str, **rules: Any) -> _Field:  # noqa: ANN401 - a type
    return kind, {"title": title, "description": description} | rules


def _typed(title: str, verb: str, text: str) -> _Field:
    """A field that accepts only this text."""
    rule = TextRule(exactly(text), f"{plain(text)}, letter by letter")
    return _field(Annotated[str, rule], title, f"{verb} {plain(text)}")
