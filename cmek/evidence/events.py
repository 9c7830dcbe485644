"""The events of an onboarding, each in one shape. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal

from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from cmek.approval import Answer, Ask
from cmek.checks.model import CheckReport
from cmek.evidence.entry import Event
from cmek.request import OnboardingRequest

Service = Literal["cloud-kms", "anthropic-admin"]
KMS: Final = "cloud-kms"
ADMIN: Final = "anthropic-admin"


def started(request: OnboardingRequest, versions: Mapping[str, str]) -> Event:
    """The pinned request, who asked, and what software works on it."""
    return Event(
        kind="started",
        subject=request.workspace_id,
        body={
            "request": request.model_dump(mode="json"),
            "requested_by": request.requested_by,
            "versions": dict(versions),
        },
    )


def checked(report: CheckReport, stage: str) -> Event:
    """All prerequisites; `stage` says when, such as `before` or an ask's key."""
    return Event(kind="checks", subject=stage, body=report.model_dump(mode="json"))


def asked(ask: Ask) -> Event:
    """The plan, its digest and until when an answer counts."""
    return Event(kind="ask", subject=ask.key, body=ask.model_dump(mode="json"))


def answered(ask: Ask, answer: Answer) -> Event:
    """Who said what to which digest; the name is a claim."""
    return Event(kind="answer", subject=ask.key, body=answer.model_dump(mode="json"))


def validated(
    external_key_id: str, stage: str, *, succeeded: bool, error: str | None, request_id: str | None
) -> Event:
    """One validation by Anthropic."""
    return Event(
        kind="validation",
        subject=f"{external_key_id} {stage}",
        body={"succeeded": succeeded, "error": error, "request_id": request_id},
    )


def decided(ask: Ask, verdict: str, reasons: tuple[str, ...], stage: str = "") -> Event:
    """What the gate said to the answer: `permit` or the course of a refusal."""
    return Event(
        kind="gate",
        subject=f"{ask.key} {stage}".strip(),
        body={"verdict": verdict, "reasons": list(reasons)},
    )


def wrote(  # noqa: PLR0913 - one argument a fact that an auditor asks for
    service: Service,
    action: str,
    resource: str,
    *,
    before: object,
    after: object,
    request_id: str | None = None,
    at: datetime | None = None,
) -> Event:
    """One write to the outside world.

    Args:
        service: Who was written to.
        action: The API's method, such as `CreateCryptoKey`.
        resource: Full name or id.
        before: What was there; None for nothing.
        after: What is there now, as answered or read back.
        request_id: Of the answer; Cloud KMS over gRPC has none.
        at: When the write was made, when that is known better than when it was recorded.
    """
    return Event(
        kind="write",
        subject=f"{action} {resource}",
        body={
            "service": service,
            "action": action,
            "resource": resource,
            "request_id": request_id,
            "at": at.isoformat() if at else None,
            "before": _plain(before),
            "after": _plain(after),
        },
    )


def not_written(action: str, resource: str, why: str) -> Event:
    """A mark that could not be left; the onboarding stands without it."""
    return Event(
        kind="not written",
        subject=f"{action} {resource}",
        body={"action": action, "resource": resource, "why": why},
    )


def attached(workspace_id: str, outcome: object, seen: object) -> Event:
    """The attach, read back: the entry whose hash stands on the workspace and in the report."""
    return Event(
        kind="attached",
        subject=workspace_id,
        body={"attach": _plain(outcome), "read_back": _plain(seen)},
    )


def _plain(value: object) -> JsonValue:
    plain: JsonValue = to_jsonable_python(value)
    return plain
