"""Everything that a call of the Admin API can raise.

    AdminApiError
     ├─ AdminConnectionError        no answer: refused, reset, name not found
     │   └─ AdminTimeoutError       no answer in time
     ├─ GoogleIdentityError         no Google ID token to exchange; nothing was sent
     ├─ AdminResponseError          an answer that the Admin API does not give (a proxy's page, …)
     └─ AdminStatusError            the documented error body; one class a status or error code
         ├─ BadRequest 400          ExternalKeyValidationFailed, ExternalKeyValidationTimedOut,
         │                          WorkspacePolicyViolation, KeyProfileMismatch
         ├─ Authentication 401, Billing 402, PermissionDenied 403, NotFound 404
         ├─ Conflict 409            ExternalKeyChanged
         ├─ RateLimited 429
         └─ ServerError 5xx, 529

Branch on the class or `error_code`, never on `message`. None of them holds the request or the
credential, and all of them can be pickled.

Source: https://platform.claude.com/docs/en/api/errors
"""
# ruff: noqa: N818 - the names say the documented condition; the bases carry the suffix

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from cmek.admin_advice import advice_for


@dataclass(frozen=True, slots=True)
class Failure:
    """What is known about a failed call; the one argument of every error here."""

    method: str
    url: str
    """Without query."""
    message: str
    ambiguous: bool = False
    """Whether the call may have had its effect all the same: read before sending it again."""
    status: int | None = None
    error_type: str | None = None
    error_code: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    request_id: str | None = None
    retry_after: float | None = None
    """Seconds that the server asked to wait."""
    should_retry: bool | None = None
    """The server's own word (`x-should-retry`), where it gave one."""


class AdminApiError(Exception):
    """A call of the Admin API failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    @property
    def message(self) -> str:
        """The service's text, or ours when it did not answer."""
        return self.failure.message

    @property
    def status(self) -> int | None:
        """The HTTP status, if there was an answer."""
        return self.failure.status

    @property
    def error_code(self) -> str | None:
        """The documented code inside `error.details`."""
        return self.failure.error_code

    @property
    def request_id(self) -> str | None:
        """What Anthropic's support asks for."""
        return self.failure.request_id

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asked to wait."""
        return self.failure.retry_after

    @property
    def ambiguous(self) -> bool:
        """Whether the call may have had its effect all the same."""
        return self.failure.ambiguous

    @property
    def advice(self) -> str:
        """What a person can do about it."""
        return advice_for(self.failure.url, self.failure.status, self.failure.error_code)

    def __str__(self) -> str:
        failure = self.failure
        labels = [str(failure.status or ""), failure.error_type or "", failure.error_code or ""]
        said = " ".join(label for label in labels if label)
        request = f" (request-id {failure.request_id})" if failure.request_id else ""
        effect = " It may have taken effect." if failure.ambiguous else ""
        return (
            f"{failure.method} {failure.url}: {said + ': ' if said else ''}"
            f"{failure.message}{request}.{effect} {self.advice}"
        )


class AdminConnectionError(AdminApiError):
    """No answer: refused, reset, name not found, TLS."""


class AdminTimeoutError(AdminConnectionError):
    """No answer in time."""


class GoogleIdentityError(AdminApiError):
    """Workload identity has no Google ID token to exchange; nothing was sent to Anthropic."""

    @property
    def advice(self) -> str:
        """How to give this machine an identity."""
        return (
            "Run where a Google service account is attached, or give the AnthropicAdmin block a "
            "service-account key; a user's own login cannot make an ID token for this audience."
        )


class AdminResponseError(AdminApiError):
    """An answer, but not one that the Admin API gives: not JSON, cut short, another shape."""

    @property
    def advice(self) -> str:
        """Who may have answered instead."""
        return (
            "Something else may have answered: check the base URL, proxies and TLS inspection "
            "between here and Anthropic."
        )


class AdminStatusError(AdminApiError):
    """The documented error body with a status that has no class of its own."""


class BadRequest(AdminStatusError):
    """400: a field is wrong, or the state does not allow it."""


class Authentication(AdminStatusError):
    """401: credential missing, malformed, revoked or expired."""


class Billing(AdminStatusError):
    """402: a payment problem."""


class PermissionDenied(AdminStatusError):
    """403: the credential lacks the right or the scope."""


class NotFound(AdminStatusError):
    """404: unknown id, or of another organization."""


class Conflict(AdminStatusError):
    """409: a state conflict, or a unique value that is in use."""


class RateLimited(AdminStatusError):
    """429: too many requests (`retry_after` given), or the monthly spend cap (not given)."""


class ServerError(AdminStatusError):
    """5xx and 529: Anthropic's side failed or is overloaded."""


class ExternalKeyValidationFailed(BadRequest):
    """Attach refused: Anthropic could not use the key."""


class ExternalKeyValidationTimedOut(BadRequest):
    """Attach refused: the check of the key did not finish; wait and decide again."""


class ExternalKeyChanged(Conflict):
    """Attach refused: the external key was edited meanwhile; read it and decide again."""


class WorkspacePolicyViolation(BadRequest):
    """The organization's Workspace Policy forbids this key for this workspace."""


class KeyProfileMismatch(BadRequest):
    """Key and workspace belong to different user profiles."""


_BY_CODE: Final[dict[str, type[AdminStatusError]]] = {
    "external_key_validation_failed": ExternalKeyValidationFailed,
    "external_key_validation_timed_out": ExternalKeyValidationTimedOut,
    "external_key_changed": ExternalKeyChanged,
    "workspace_policy_violation": WorkspacePolicyViolation,
    "key_profile_mismatch": KeyProfileMismatch,
}
_BY_STATUS: Final[dict[int, type[AdminStatusError]]] = {
    400: BadRequest,
    401: Authentication,
    402: Billing,
    403: PermissionDenied,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}


def status_error(failure: Failure) -> AdminStatusError:
    """The error for an answer: by its code, else by its status."""
    status = failure.status or 0
    by_status = ServerError if status >= 500 else _BY_STATUS.get(status, AdminStatusError)
    return _BY_CODE.get(failure.error_code or "", by_status)(failure)
