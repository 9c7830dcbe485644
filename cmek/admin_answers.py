"""From what httpx gives to the typed errors of the Admin API."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from cmek.admin_errors import (
    AdminApiError,
    AdminConnectionError,
    AdminResponseError,
    AdminTimeoutError,
    Failure,
    status_error,
)

# The request was never sent, so it cannot have had an effect.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


def error_from_exception(
    error: httpx.HTTPError | TimeoutError, request: httpx.Request, *, effect: bool
) -> AdminConnectionError:
    """No answer, or half of one."""
    kind = type(error).__name__
    failure = Failure(
        method=request.method,
        url=_url(request),
        message=f"no answer ({kind}{': ' if str(error) else ''}{error})",
        ambiguous=effect and not isinstance(error, _NOT_SENT),
    )
    late = isinstance(error, httpx.TimeoutException | TimeoutError)
    return AdminTimeoutError(failure) if late else AdminConnectionError(failure)


def error_from_response(response: httpx.Response, *, effect: bool) -> AdminApiError:
    """An answer other than 2xx.

    A 4xx without the documented body comes from a proxy or another service, so that its 404 says
    nothing about the resource; 429 and 5xx say enough by their status.
    """
    status = response.status_code
    body = _error_body(response)
    if body is None and status != 429 and status < 500:
        return unreadable(response, "not an error of the Admin API", effect=effect)
    error = body or {}
    details = error.get("details")
    details = details if isinstance(details, dict) else {}
    return status_error(
        Failure(
            method=response.request.method,
            url=_url(response.request),
            message=str(error.get("message") or "no text from the Admin API"),
            ambiguous=effect and (status >= 500 or status == 408),
            status=status,
            error_type=_text(error.get("type")),
            error_code=_text(details.get("error_code")),
            details=details,
            request_id=response.headers.get("request-id"),
            retry_after=retry_after(response.headers),
            should_retry=_should_retry(response.headers),
        )
    )


def unreadable(response: httpx.Response, what: str, *, effect: bool) -> AdminResponseError:
    """An answer that the Admin API does not give; a write may have happened behind it."""
    failure = Failure(
        method=response.request.method,
        url=_url(response.request),
        message=f"unexpected answer: {what}",
        ambiguous=effect,
        status=response.status_code,
        request_id=response.headers.get("request-id"),
    )
    return AdminResponseError(failure)


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds to wait from `retry-after-ms` or `retry-after` (seconds or an HTTP date)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _error_body(response: httpx.Response) -> dict[str, Any] | None:
    try:
        error = response.json()["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return error if isinstance(error, dict) else None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _should_retry(headers: httpx.Headers) -> bool | None:
    return {"true": True, "false": False}.get(headers.get("x-should-retry", ""))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _url(request: httpx.Request) -> str:
    return str(request.url.copy_with(query=None))
