"""One shape for what fails: gRPC exceptions, REST exceptions, JSON bodies, lost connections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import httpx
import requests
from google.api_core import exceptions as core
from google.auth import exceptions as auth
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from cmek.admin_answers import retry_after

STATUS_OF_HTTP: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
CONNECTION: Final = "CONNECTION"
CREDENTIALS: Final = "CREDENTIALS"
NOT_GOOGLE: Final = "NOT_GOOGLE"


@dataclass(frozen=True, slots=True)
class Body:
    """Status, text and details, before anyone has read meaning into them."""

    status: str
    message: str
    details: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    """Ours, where Google did not answer."""
    retry_after: float | None = None
    transient: bool | None = None
    """Known already; None: judge by the status."""


def body_of(failure: Exception | httpx.Response) -> Body:
    """Read a failure of any kind that a Google client lets out.

    Raises:
        Exception: `failure` itself, when it is none of them (a bug is not a Google problem).
    """
    if isinstance(failure, httpx.Response):
        return _http_body(failure.status_code, _json(failure), retry_after(failure.headers))
    if isinstance(failure, core.RetryError) and isinstance(failure.cause, Exception):
        return body_of(failure.cause)
    if isinstance(failure, core.GoogleAPICallError):
        return _call_error(failure)
    if isinstance(failure, grpc.aio.AioRpcError):
        return _call_error(core.from_grpc_error(failure))  # type: ignore[no-untyped-call]
    if isinstance(failure, auth.GoogleAuthError):
        return _auth_error(failure)
    lost = httpx.TransportError | requests.RequestException | core.RetryError | TimeoutError
    if isinstance(failure, lost | ConnectionError):
        message = f"no answer ({type(failure).__name__}: {failure})"
        return Body("UNAVAILABLE", message, reason=CONNECTION)
    raise failure


def _call_error(error: core.GoogleAPICallError) -> Body:
    code = error.grpc_status_code
    if code is None:
        payload = _json(error.response) if hasattr(error.response, "json") else None
        status = int(error.code) if error.code else 500
        return _http_body(status, payload, None)
    message = error.message or ""
    if message.startswith("Getting metadata from plugin failed"):
        # The transport calls every failure to get a token UNAVAILABLE.
        offline = "TransportError" in message or "Failed to establish" in message
        return Body("UNAUTHENTICATED", message, reason=CREDENTIALS, transient=offline)
    return Body(code.name, message, [_detail(detail) for detail in error.details])


def _auth_error(error: auth.GoogleAuthError) -> Body:
    offline = isinstance(error, auth.TransportError)
    message = f"no Google credentials ({type(error).__name__}: {error})"
    transient = offline or bool(getattr(error, "retryable", False))
    return Body("UNAUTHENTICATED", message, reason=CREDENTIALS, transient=transient)


def _http_body(code: int, payload: object, wait: float | None) -> Body:
    """From a JSON error body; a 4xx without one comes from something that is not Google."""
    payload = payload[0] if isinstance(payload, list) and payload else payload
    error = payload.get("error") if isinstance(payload, dict) else None
    status = STATUS_OF_HTTP.get(code, "UNKNOWN")
    if not isinstance(error, dict):
        foreign = code < 500 and code not in {408, 429}
        text = f"HTTP {code} without an error body of Google's"
        status = "UNKNOWN" if foreign else status
        return Body(status, text, [], NOT_GOOGLE, wait, False if foreign else None)
    details = error.get("details")
    return Body(
        status=str(error.get("status") or status),
        message=str(error.get("message") or ""),
        details=[d for d in details if isinstance(d, dict)] if isinstance(details, list) else [],
        retry_after=wait,
    )


def _detail(detail: object) -> dict[str, Any]:
    if isinstance(detail, dict):
        return detail
    if not isinstance(detail, Message) or detail.DESCRIPTOR.full_name == "google.protobuf.Any":
        return {}
    name = detail.DESCRIPTOR.full_name
    return {"@type": f"type.googleapis.com/{name}", **MessageToDict(detail)}


def _json(response: Any) -> object:  # noqa: ANN401 - of httpx or of requests
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None
