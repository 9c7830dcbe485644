"""Errors of Google's APIs and of the Admin API; handlers raise them, the transports render them.

Errors of Cloud KMS have the documented texts and details.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

import grpc
from google.api_core import exceptions

GOOGLE_HTTP: Final = {
    status.name: int(exceptions.from_grpc_status(status, "").code or 500)  # type: ignore[no-untyped-call]
    for status in grpc.StatusCode
    if status is not grpc.StatusCode.OK
}
"""The HTTP code of each canonical status."""


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
        details = {"details": self.details} if self.details else {}
        error = {"code": self.http_status, "message": self.message, "status": self.status}
        return {"error": error | details}


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
        kind = ANTHROPIC_TYPES.get(self.http_status, "invalid_request_error")
        details = {"details": self.details} if self.details else {}
        error = {"type": kind, "message": self.message} | details
        return {"type": "error", "error": error, "request_id": request_id}


SERVICE = "cloudkms.googleapis.com"
_TYPE = "type.googleapis.com/google.rpc."


def error_info(reason: str, domain: str = "googleapis.com", **metadata: str) -> dict[str, Any]:
    """A `google.rpc.ErrorInfo` detail."""
    return {"@type": f"{_TYPE}ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata}


def disabled_info(service: str, number: str, reason: str = "SERVICE_DISABLED") -> dict[str, Any]:
    """The detail about a service that the project of that number cannot use."""
    return error_info(reason, service=service, consumer=f"projects/{number}")


def precondition(kind: str, subject: str, *descriptions: str) -> dict[str, Any]:
    """A `google.rpc.PreconditionFailure` detail with one violation for each description."""
    violations = [
        {"type": kind, "subject": subject, "description": one} for one in descriptions or ("",)
    ]
    return {"@type": f"{_TYPE}PreconditionFailure", "violations": violations}


def invalid(message: str) -> GoogleError:
    """INVALID_ARGUMENT."""
    return GoogleError("INVALID_ARGUMENT", message)


def not_found(kind: str, name: str) -> GoogleError:
    """NOT_FOUND: `KeyRing projects/… not found.`."""
    return GoogleError("NOT_FOUND", f"{kind} {name} not found.")


def already_exists(kind: str, name: str) -> GoogleError:
    """ALREADY_EXISTS."""
    return GoogleError("ALREADY_EXISTS", f"{kind} {name} already exists.")


def misrouted(location: str) -> GoogleError:
    """NOT_FOUND for a mistyped location: the request never reaches a regional server."""
    return GoogleError(
        "NOT_FOUND",
        f"The request concerns location '{location}' but was sent to location 'global'. Either "
        f"Cloud KMS is not available in '{location}' or the request was misrouted. Make sure that "
        "the request carries its routing header.",
    )


def permission_denied(permission: str, resource: str, domain: str = SERVICE) -> GoogleError:
    """The caller lacks `permission`; the text does not disclose whether `resource` exists."""
    return GoogleError(
        "PERMISSION_DENIED",
        f"Permission '{permission}' denied on resource '{resource}' (or it may not exist).",
        [error_info("IAM_PERMISSION_DENIED", domain, permission=permission, resource=resource)],
    )


def service_disabled(number: str) -> GoogleError:
    """The Cloud KMS API is off in the project of that number."""
    url = f"https://console.developers.google.com/apis/api/{SERVICE}/overview?project={number}"
    return _not_ready(
        "SERVICE_DISABLED",
        f"Cloud Key Management Service (KMS) API has not been used in project {number} before or "
        f"it is disabled. Enable it by visiting {url} then retry. If you enabled this API "
        "recently, wait a few minutes for the action to propagate to our systems and retry.",
        number,
        {"description": "Google developers console API activation", "url": url},
    )


def billing_disabled(number: str) -> GoogleError:
    """The project of that number has no active billing account."""
    url = f"https://console.developers.google.com/billing/enable?project={number}"
    return _not_ready(
        "BILLING_DISABLED",
        "This API method requires billing to be enabled. Please enable billing on project "
        f"#{number} by visiting {url} then retry.",
        number,
        {"description": "Google developers console billing", "url": url},
    )


def _not_ready(reason: str, message: str, number: str, link: dict[str, str]) -> GoogleError:
    info = disabled_info(SERVICE, number, reason)
    help_ = {"@type": f"{_TYPE}Help", "links": [link]}
    return GoogleError("PERMISSION_DENIED", message, [info, help_])


def perimeter_violation(number: str, unique_id: str) -> GoogleError:
    """VPC Service Controls denies the caller access to the project of that number."""
    consumer = f"projects/{number}"
    return GoogleError(
        "PERMISSION_DENIED",
        "Request is prohibited by organization's policy. "
        f"vpcServiceControlsUniqueIdentifier: {unique_id}",
        [
            precondition("VPC_SERVICE_CONTROLS", "", unique_id),
            error_info(
                "SECURITY_POLICY_VIOLATED", uid=unique_id, service=SERVICE, consumer=consumer
            ),
        ],
    )


def version_not_enabled(name: str, state: str) -> GoogleError:
    """A version in `state` was asked to encrypt or decrypt."""
    return GoogleError(
        "FAILED_PRECONDITION",
        f"{name} is not enabled, current state is: {state}.",
        [precondition(f"KEY_{state}", name)],
    )


def concurrent_policy_change(given: bytes, current: bytes) -> GoogleError:
    """SetIamPolicy carried an etag that is no longer the policy's."""
    asked, stored = (b64encode(etag).decode() for etag in (given, current))
    return GoogleError(
        "ABORTED",
        "There were concurrent policy changes. Please retry the whole read-modify-write with "
        f"exponential backoff. The request's ETag '{asked}' did not match the current policy's "
        f"ETag '{stored}'.",
    )
