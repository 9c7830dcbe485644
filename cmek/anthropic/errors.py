"""Every error that a call of the Admin API can raise, and how a response becomes one of them.

    AdminApiError
     ├─ AdminConnectionError        no response: refused, reset, name not found
     │   └─ AdminTimeoutError       no response in time
     ├─ GoogleIdentityError         no Google ID token to exchange; nothing was sent
     ├─ AdminResponseError          a response that is not the Admin API's (a proxy's page, …)
     └─ AdminStatusError            the documented error body; a class for each status or error code

Branch on the class or on `error_code`, never on `message`. No error holds the request or the
credential, and all can be pickled.

Source: https://platform.claude.com/docs/en/api/errors and
https://platform.claude.com/docs/en/manage-claude/cmek-troubleshooting
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Final

import httpx

from cmek.errors import UNKNOWN_CONNECTION, CmekError, lost_connection

TOKEN_PATH: Final = "/v1/oauth/token"  # noqa: S105 - a path
GATEWAY_REFUSED: Final = "cmek_gateway_refused"
GATEWAY_NOT_SENT: Final = "cmek_gateway_not_sent"
APPROVAL_SPENT: Final = "cmek_approval_spent"
"""`error.details.error_code` of refusals by a cmek gateway itself."""
_FEDERATION: Final = (
    "Anthropic did not take the Google identity: compare issuer, sub, email and audience of the "
    "federation rule (Console, history of the rule) and the ids in the AnthropicAdmin block."
)


@dataclass(frozen=True, slots=True)
class CallFailure:
    """What is known about a failed call; the only argument of every error in this module."""

    method: str
    url: str
    """Without query."""
    message: str
    ambiguous: bool = False
    """Whether the call may have taken effect although it failed: read before sending it again."""
    status: int | None = None
    error_type: str | None = None
    error_code: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    request_id: str | None = None
    retry_after: float | None = None
    """Seconds to wait, as requested by the server."""
    should_retry: bool | None = None
    """The server's own decision (`x-should-retry`), if it sent one."""
    advice: str = ""
    """What to do; empty: the advice of the error's code or class."""


class AdminApiError(CmekError):
    """A call of the Admin API failed; the attributes are those of `CallFailure`."""

    _ADVICE: ClassVar = UNKNOWN_CONNECTION

    def __init__(self, failure: CallFailure) -> None:
        super().__init__(failure)
        self.failure = failure
        self.message = failure.message
        self.status = failure.status
        self.error_code = failure.error_code
        self.request_id = failure.request_id
        self.retry_after = failure.retry_after
        self.ambiguous = failure.ambiguous

    @property
    def resource(self) -> str | None:
        """The address of the call, without query."""
        return self.failure.url

    @property
    def advice(self) -> str:
        """What a person can do about it."""
        failure = self.failure
        if failure.advice:
            return failure.advice
        if failure.url.endswith(TOKEN_PATH) and failure.status in {400, 401, 403}:
            return _FEDERATION
        by_code = _BY_CODE.get(failure.error_code or "")
        return by_code if isinstance(by_code, str) else self._ADVICE

    def _message(self) -> str:
        failure = self.failure
        parts = [str(failure.status or ""), failure.error_type or "", failure.error_code or ""]
        labels = " ".join(part for part in parts if part)
        request = f" (request-id {failure.request_id})" if failure.request_id else ""
        effect = " It may have taken effect." if failure.ambiguous else ""
        return (
            f"{failure.method} {failure.url}: {labels + ': ' if labels else ''}"
            f"{failure.message}{request}.{effect} {self.advice}"
        )


class AdminConnectionError(AdminApiError):
    """No response: refused, reset, name not found, TLS."""


class AdminTimeoutError(AdminConnectionError):
    """No response in time."""


class GoogleIdentityError(AdminApiError):
    """Workload identity has no Google ID token to exchange; nothing was sent to Anthropic."""

    _ADVICE = (
        "Run where a Google service account is attached, or give the AnthropicAdmin block a "
        "service-account key; a user's own login cannot make an ID token for this audience."
    )


class AdminResponseError(AdminApiError):
    """A response that is not the Admin API's: not JSON, cut short, or of another shape."""

    _ADVICE = (
        "Something else may have answered: check the base URL, proxies and TLS inspection "
        "between here and Anthropic."
    )


class AdminStatusError(AdminApiError):
    """The documented error body with a status that has no class of its own."""

    _ADVICE = "Check the base URL and proxies between here and Anthropic."


class BadRequestError(AdminStatusError):
    """400: a field is wrong, or the state does not allow it."""

    _ADVICE = (
        "Anthropic says no more than this, so the cause is not known here; sending it again "
        "unchanged will not help. Anthropic's support finds the call by its request id."
    )


class AuthenticationError(AdminStatusError):
    """401: credential missing, malformed, revoked or expired."""

    _ADVICE = (
        "The credential is missing, malformed, revoked or expired: put a current one into the "
        "AnthropicAdmin block. Workspace keys (sk-ant-api…) do not work here."
    )


class BillingError(AdminStatusError):
    """402: a payment problem."""

    _ADVICE = "Check the payment details in the Console."


class PermissionDeniedError(AdminStatusError):
    """403: the credential lacks the right or the scope."""

    _ADVICE = (
        "The credential lacks the right: it must be an Admin API key or an org:admin token of this "
        "organization."
    )
    _OF_KEYS: ClassVar = (
        "Either the credential lacks the right (it must be an Admin API key or an org:admin "
        "token), or Anthropic's account team has not enabled customer-managed keys for the "
        "organization. Where `cmek doctor` reads the organization, the credential is right."
    )

    @property
    def advice(self) -> str:
        """Depends on the call: external keys also need CMEK to be enabled for the organization."""
        return self._OF_KEYS if "/external_keys" in self.failure.url else super().advice


class NotFoundError(AdminStatusError):
    """404: the id is unknown, or belongs to another organization."""

    _ADVICE = "Check the id, and that the credential belongs to the same organization."

    @property
    def advice(self) -> str:
        """Depends on the call: lists and the organization itself have no id that could be wrong."""
        if _HAS_ID.search(self.failure.url):
            return super().advice
        return (
            "This part of the Admin API is not there: check the base URL in the AnthropicAdmin "
            "block and proxies that change paths."
        )


class ConflictError(AdminStatusError):
    """409: a conflict of states, or a unique value that is already in use."""

    _ADVICE = "Read the resource: it is in another state than expected, or the value is in use."


class RateLimitError(AdminStatusError):
    """429: too many requests (`retry_after` given), or the monthly spend cap (not given)."""

    _ADVICE = "Wait and try again; if it does not pass, look at the monthly spend limit."


class InternalServerError(AdminStatusError):
    """5xx and 529: Anthropic's side failed or is overloaded."""

    _ADVICE = "Anthropic's side failed or is overloaded: try again later."


class ExternalKeyValidationFailedError(BadRequestError):
    """Attach refused: Anthropic's check of the key failed."""

    _ADVICE = (
        "Anthropic could not use the Cloud KMS key: check the organization label, both grants on "
        "the key, the state of its primary version and VPC Service Controls, then validate again."
    )


class ExternalKeyValidationTimeoutError(BadRequestError):
    """Attach refused: Anthropic's check of the key did not finish; wait and decide again."""

    _ADVICE = "Nothing was attached. Wait a few minutes and try again."


class ExternalKeyChangedError(ConflictError):
    """Attach refused: the external key was edited during the call; read it and decide again."""

    _ADVICE = (
        "Nothing was attached: someone edited the external key meanwhile. Read it and try again."
    )


class WorkspacePolicyViolationError(BadRequestError):
    """The organization's Workspace Policy forbids this key for this workspace."""

    _ADVICE = (
        "The organization's Workspace Policy does not allow this key for this workspace: an "
        "organization admin can change the policy in the Console."
    )


class KeyProfileMismatchError(BadRequestError):
    """Key and workspace belong to different user profiles."""

    _ADVICE = (
        "Use a key and a workspace of the same user profile, or of none: register the key anew."
    )


class GatewayRefusedError(PermissionDeniedError):
    """A cmek gateway refused: nothing was sent to Anthropic."""

    _ADVICE = (
        "Nothing was sent to Anthropic. The gateway's log has the same line; its policy is in "
        "docs/gateway.md."
    )


class GatewayNotSentError(ConflictError):
    """A cmek gateway could not read what it checks before an attach; it has sent none."""

    _ADVICE = "Nothing was sent to Anthropic, and the approval can still be used."


class ApprovalSpentError(ConflictError):
    """A cmek gateway has already used this signed approval; it is valid once."""

    _ADVICE = "Read the workspace; for another attempt, retry the run for a new approval request."


class StorageProfileMismatchError(BadRequestError):
    """The workspace's external storage and its user profile do not match."""

    _ADVICE = (
        "It is not about the key: the workspace's external storage and its user profile must be "
        "of the same user profile, or both of none. Change either in the Console."
    )


class ChangeOutcomeUnknownError(InternalServerError):
    """503: a part of an update may be saved; the same request may be sent again."""

    _ADVICE = (
        "Some of the change may be saved and some not: read the workspace; the same request may "
        "be sent again, and what is saved is not repeated."
    )


class WorkspaceCreatedIncompleteError(InternalServerError):
    """503: the workspace exists, but a part of what was requested may be missing."""

    _ADVICE = (
        "The workspace exists: never send the create again. Do what Anthropic's text says, then "
        "onboard the workspace by its id."
    )

    @property
    def workspace_id(self) -> str | None:
        """Id of the workspace that was created."""
        return _text(self.failure.details.get("workspace_id"))


_HAS_ID: Final = re.compile(r"/(?:wrkspc|ekey)_")
_BY_STATUS: Final[dict[int, type[AdminStatusError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BillingError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitError,
}
_BY_CODE: Final[dict[str, type[AdminStatusError] | str]] = {
    "external_key_validation_failed": ExternalKeyValidationFailedError,
    "external_key_validation_timed_out": ExternalKeyValidationTimeoutError,
    "external_key_changed": ExternalKeyChangedError,
    "workspace_policy_violation": WorkspacePolicyViolationError,
    "key_profile_mismatch": KeyProfileMismatchError,
    GATEWAY_REFUSED: GatewayRefusedError,
    GATEWAY_NOT_SENT: GatewayNotSentError,
    APPROVAL_SPENT: ApprovalSpentError,
    "storage_profile_mismatch": StorageProfileMismatchError,
    "change_outcome_unknown": ChangeOutcomeUnknownError,
    "workspace_created_incomplete": WorkspaceCreatedIncompleteError,
    "cmek_gateway_credential": "Replace the gateway's credential, and restart the gateway.",
    "user_profile_not_found": (
        "The external key or the workspace is bound to a user profile that is not there any more: "
        "register the key anew without one."
    ),
    "external_key_in_workspace_policy": (
        "Take the key out of the organization's Workspace Policy in the Console first."
    ),
    "sandbox_egress_restricted": "Make the call from outside Claude's own sandbox.",
    "organization_on_hold": "Ask Anthropic's account team why the organization is on hold.",
    "organization_type_not_supported": "This kind of organization cannot do this; ask Anthropic.",
}
"""For each documented `error.details.error_code`: its class, or only its advice when the class of
the status is enough."""
_SHOULD_RETRY: Final = {"true": True, "false": False}


def error_from_response(response: httpx.Response, *, effect: bool) -> AdminApiError:
    """The error for a response other than 2xx.

    A 4xx without the documented body comes from a proxy or another service: its 404 says nothing
    about the resource. For 429 and 5xx the status alone is enough.
    """
    status = response.status_code
    body = _error_body(response)
    if body is None and status != 429 and status < 500:
        return unreadable(response, "not an error of the Admin API", effect=effect)
    error = body or {}
    details = error.get("details")
    details = details if isinstance(details, dict) else {}
    code = _text(details.get("error_code"))
    by_code = _BY_CODE.get(code or "")
    # an unknown code is no error: Anthropic adds codes, and the class of the status still holds
    by_status = InternalServerError if status >= 500 else _BY_STATUS.get(status, AdminStatusError)
    return (by_code if isinstance(by_code, type) else by_status)(
        CallFailure(
            method=response.request.method,
            url=_url(response.request),
            message=str(error.get("message") or "no text from the Admin API"),
            # any other status is a refusal: nothing was done
            ambiguous=effect and (status >= 500 or status == 408),
            status=status,
            error_type=_text(error.get("type")),
            error_code=code,
            details=details,
            request_id=response.headers.get("request-id"),
            retry_after=retry_after(response.headers),
            should_retry=_SHOULD_RETRY.get(response.headers.get("x-should-retry", "")),
        )
    )


def unreadable(response: httpx.Response, what: str, *, effect: bool) -> AdminResponseError:
    """The error for a response that is not the Admin API's; a write may have taken effect."""
    failure = CallFailure(
        method=response.request.method,
        url=_url(response.request),
        message=f"unexpected answer: {what}",
        ambiguous=effect,
        status=response.status_code,
        request_id=response.headers.get("request-id"),
    )
    return AdminResponseError(failure)


# the request was never sent, so it can't have taken effect
_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


def error_from_exception(
    error: httpx.HTTPError | TimeoutError, request: httpx.Request, *, effect: bool
) -> AdminConnectionError:
    """The error for a missing or incomplete response."""
    kind = type(error).__name__
    failure = CallFailure(
        method=request.method,
        url=_url(request),
        message=f"no answer ({kind}{': ' if str(error) else ''}{error})",
        ambiguous=effect and not isinstance(error, _NOT_SENT),
    )
    late = isinstance(error, httpx.TimeoutException | TimeoutError)
    failure = replace(failure, advice=lost_connection(error)[1])
    return AdminTimeoutError(failure) if late else AdminConnectionError(failure)


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or an HTTP date)."""
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
    return number if 0 <= number < float("inf") else None  # refuses `nan` as well


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _url(request: httpx.Request) -> str:
    return str(request.url.copy_with(query=None))
