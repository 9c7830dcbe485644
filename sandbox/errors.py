"""The two services' errors, raised by handlers and rendered by the transports."""

from __future__ import annotations

from typing import Any

GOOGLE_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class GoogleError(Exception):
    """A Google API error: `status` is the canonical name, `details` JSON objects with `@type`."""

    def __init__(
        self, status: str, message: str, details: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.details = details or []

    @property
    def http_status(self) -> int:
        """The HTTP code of the canonical status."""
        return GOOGLE_HTTP[self.status]

    def to_json(self) -> dict[str, Any]:
        """The body that Google's REST surface sends."""
        error: dict[str, Any] = {
            "code": self.http_status,
            "message": self.message,
            "status": self.status,
        }
        if self.details:
            error["details"] = self.details
        return {"error": error}


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class AnthropicError(Exception):
    """An Admin API error."""

    def __init__(
        self,
        http_status: int,
        message: str,
        error_code: str | None = None,
        **details: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.message = message
        self.details = ({"error_code": error_code} if error_code else {}) | details

    def to_json(self, request_id: str) -> dict[str, Any]:
        """The documented error body."""
        error: dict[str, Any] = {
            "type": ANTHROPIC_TYPES.get(self.http_status, "invalid_request_error"),
            "message": self.message,
        }
        if self.details:
            error["details"] = self.details
        return {"type": "error", "error": error, "request_id": request_id}
