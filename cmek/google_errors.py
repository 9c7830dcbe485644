"""One `classify` for every way in which a Google call fails.

The client library's exception class depends on the transport, and a REST exception has the
canonical status only in its body; so nothing here looks at classes, only at status, details
and documented texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import httpx

from cmek.google_advice import advice_for
from cmek.google_bodies import Body, body_of
from cmek.google_problem import GoogleApiError, GoogleProblem, Violation

__all__ = ["GoogleApiError", "GoogleProblem", "Violation", "classify"]

_TRANSIENT: Final = {
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "INTERNAL",
    "UNKNOWN",
}
_DENIED: Final = re.compile(r"[Pp]ermission '([\w.]+)' denied (?:on|for) resource '?([^'\s]+)'?")
_MISROUTED: Final = re.compile(r"request concerns location '([^']*)'")
_NOT_FOUND: Final = re.compile(r"\b(projects/\S+?) (?:not found|does not exist|already exists)")
_CONSTRAINT: Final = re.compile(r"constraints/[\w.]+")
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")


def classify(
    failure: Exception | httpx.Response, *, call: str = "", resource: str | None = None
) -> GoogleProblem:
    """Say what went wrong, with whom, and what a person can do.

    Args:
        failure: A `google.api_core` exception of either transport, a `google.auth` one, a lost
            connection (requests, httpx), or an httpx response other than 2xx.
        call: What was called, for the text.
        resource: Whom the call was about, where the answer does not say.

    Raises:
        Exception: `failure` itself, when it is none of these.
    """
    body = body_of(failure)
    info = next(_details(body, "ErrorInfo"), {})
    metadata = info.get("metadata")
    metadata = {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}
    denied = _DENIED.search(body.message)
    violations = tuple(_violations(body))
    reason = _reason(body, info, violations, denied is not None)
    problem = GoogleProblem(
        status=body.status,
        reason=reason,
        permission=denied[1] if denied else metadata.get("permission"),
        resource=_resource(body, denied, metadata, violations) or resource,
        violations=violations,
        metadata=metadata,
        message=body.message,
        request_id=next((_text(d, "requestId") for d in _details(body, "RequestInfo")), None),
        retry_after=_retry_after(body),
        transient=_is_transient(body, reason),
        call=call,
    )
    return problem.model_copy(update={"advice": advice_for(problem)})


def _reason(
    body: Body, info: dict[str, Any], violations: tuple[Violation, ...], denied: bool
) -> str | None:
    if _MISROUTED.search(body.message):
        return "MISROUTED_LOCATION"
    if given := body.reason or _text(info, "reason"):
        return given
    if kinds := [violation.type for violation in violations if violation.type]:
        return kinds[0]
    if body.status == "FAILED_PRECONDITION" and (named := _CONSTRAINT.search(body.message)):
        return named[0]
    if "concurrent policy changes" in body.message:
        return "CONCURRENT_POLICY_CHANGE"
    return "IAM_PERMISSION_DENIED" if denied else None


def _resource(
    body: Body,
    denied: re.Match[str] | None,
    metadata: dict[str, str],
    violations: tuple[Violation, ...],
) -> str | None:
    if denied:
        return denied[2]
    if named := metadata.get("resource") or metadata.get("consumer"):
        return named
    if subjects := [violation.subject for violation in violations if violation.subject]:
        return subjects[0]
    if location := _MISROUTED.search(body.message):
        return f"locations/{location[1]}"
    missing = _NOT_FOUND.search(body.message)
    return missing[1] if missing else None


def _is_transient(body: Body, reason: str | None) -> bool:
    if body.transient is not None:
        return body.transient
    return body.status in _TRANSIENT or reason == "KEY_PENDING_GENERATION"


def _violations(body: Body) -> Iterator[Violation]:
    for kind in ("PreconditionFailure", "QuotaFailure"):
        for detail in _details(body, kind):
            lines = detail.get("violations")
            for line in lines if isinstance(lines, list) else []:
                if isinstance(line, dict):
                    yield Violation(
                        type=_text(line, "type") or "",
                        subject=_text(line, "subject") or "",
                        description=_text(line, "description") or "",
                    )


def _retry_after(body: Body) -> float | None:
    if body.retry_after is not None:
        return body.retry_after
    for detail in _details(body, "RetryInfo"):
        if match := _DURATION.fullmatch(_text(detail, "retryDelay") or ""):
            return float(match[1])
    return None


def _details(body: Body, kind: str) -> Iterator[dict[str, Any]]:
    wanted = f"google.rpc.{kind}"
    return (d for d in body.details if str(d.get("@type", "")).endswith(wanted))


def _text(detail: dict[str, Any], name: str) -> str | None:
    value = detail.get(name)
    return value if isinstance(value, str) else None
