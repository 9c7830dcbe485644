"""What a person can do about an error of the Admin API, by error code and status.

Source: https://platform.claude.com/docs/en/api/errors and
https://platform.claude.com/docs/en/manage-claude/cmek-troubleshooting

Everything that a call of the Admin API can raise.

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

From what httpx gives to the typed errors of the Admin API.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from cmek.errors import CmekError

TOKEN_PATH: Final = "/v1/oauth/token"  # noqa: S105 - a path

_ADVICE_BY_CODE: Final = {
    "external_key_validation_failed": (
        "Anthropic could not use the Cloud KMS key: check the organization label, both grants on "
        "the key, the state of its primary version and VPC Service Controls, then validate again."
    ),
    "external_key_validation_timed_out": "Nothing was attached. Wait a few minutes and try again.",
    "external_key_changed": (
        "Nothing was attached: someone edited the external key meanwhile. Read it and try again."
    ),
    "external_key_in_workspace_policy": (
        "Take the key out of the organization's Workspace Policy in the Console first."
    ),
    "workspace_policy_violation": (
        "The organization's Workspace Policy does not allow this key for this workspace: an "
        "organization admin can change the policy in the Console."
    ),
    "key_profile_mismatch": (
        "Use a key and a workspace of the same user profile, or of none: register the key anew."
    ),
    "sandbox_egress_restricted": "Make the call from outside Claude's own sandbox.",
    "organization_on_hold": "Ask Anthropic's account team why the organization is on hold.",
    "organization_type_not_supported": "This kind of organization cannot do this; ask Anthropic.",
}
_ADVICE_BY_STATUS: Final = {
    400: "Correct the request; sending it again unchanged will not help.",
    401: (
        "The credential is missing, malformed, revoked or expired: put a current one into the "
        "AnthropicAdmin block. Workspace keys (sk-ant-api…) do not work here."
    ),
    402: "Check the payment details in the Console.",
    403: (
        "The credential lacks the right: it must be an Admin API key or an org:admin token, and "
        "customer-managed keys must be enabled for the organization by Anthropic's account team."
    ),
    404: "Check the id, and that the credential belongs to the same organization.",
    409: "Read the resource: it is in another state than expected, or the value is in use.",
    429: "Wait and try again; if it does not pass, look at the monthly spend limit.",
}


_FEDERATION: Final = (
    "Anthropic did not take the Google identity: compare issuer, sub, email and audience of the "
    "federation rule (Console, history of the rule) and the ids in the AnthropicAdmin block."
)


def advice_for(url: str, status: int | None, error_code: str | None) -> str:
    """A sentence or two; the code knows more than the status."""
    if url.endswith(TOKEN_PATH) and status in {400, 401, 403}:
        return _FEDERATION
    if error_code in _ADVICE_BY_CODE:
        return _ADVICE_BY_CODE[error_code]
    if status is None:
        return "Check the base URL, the network, proxies and TLS inspection, then try again."
    if status >= 500:
        return "Anthropic's side failed or is overloaded: try again later."
    return _ADVICE_BY_STATUS.get(
        status, "Check the base URL and proxies between here and Anthropic."
    )


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


class AdminApiError(CmekError):
    """A call of the Admin API failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    @property
    def resource(self) -> str | None:
        """The address of the call, without query."""
        return self.failure.url

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


class BadRequestError(AdminStatusError):
    """400: a field is wrong, or the state does not allow it."""


class AuthenticationError(AdminStatusError):
    """401: credential missing, malformed, revoked or expired."""


class BillingError(AdminStatusError):
    """402: a payment problem."""


class PermissionDeniedError(AdminStatusError):
    """403: the credential lacks the right or the scope."""


class NotFoundError(AdminStatusError):
    """404: unknown id, or of another organization."""


class ConflictError(AdminStatusError):
    """409: a state conflict, or a unique value that is in use."""


class RateLimitError(AdminStatusError):
    """429: too many requests (`retry_after` given), or the monthly spend cap (not given)."""


class InternalServerError(AdminStatusError):
    """5xx and 529: Anthropic's side failed or is overloaded."""


class ExternalKeyValidationFailedError(BadRequestError):
    """Attach refused: Anthropic could not use the key."""


class ExternalKeyValidationTimeoutError(BadRequestError):
    """Attach refused: the check of the key did not finish; wait and decide again."""


class ExternalKeyChangedError(ConflictError):
    """Attach refused: the external key was edited meanwhile; read it and decide again."""


class WorkspacePolicyViolationError(BadRequestError):
    """The organization's Workspace Policy forbids this key for this workspace."""


class KeyProfileMismatchError(BadRequestError):
    """Key and workspace belong to different user profiles."""


_CLASS_BY_CODE: Final[dict[str, type[AdminStatusError]]] = {
    "external_key_validation_failed": ExternalKeyValidationFailedError,
    "external_key_validation_timed_out": ExternalKeyValidationTimeoutError,
    "external_key_changed": ExternalKeyChangedError,
    "workspace_policy_violation": WorkspacePolicyViolationError,
    "key_profile_mismatch": KeyProfileMismatchError,
}
_CLASS_BY_STATUS: Final[dict[int, type[AdminStatusError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}


def status_error(failure: Failure) -> AdminStatusError:
    """The error for an answer: by its code, else by its status."""
    status = failure.status or 0
    by_status = (
        InternalServerError if status >= 500 else _CLASS_BY_STATUS.get(status, AdminStatusError)
    )
    return _CLASS_BY_CODE.get(failure.error_code or "", by_status)(failure)


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
