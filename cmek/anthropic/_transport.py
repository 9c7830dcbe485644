"""One request to the Admin API: headers, timeouts, retries; returns an object or a typed error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, TypeVar, Unpack

import httpx
from pydantic import ValidationError

from cmek._http import RetryDecision, http_client, retrying, send_bounded
from cmek.addresses import ADMIN_API_VERSION, check_base_url
from cmek.anthropic.auth import (
    APPROVALS_HEADER,
    FEDERATION_BETA,
    AccessToken,
    Credential,
    GatewayAccess,
    encoded_approvals,
)
from cmek.anthropic.errors import (
    TOKEN_PATH,
    AdminApiError,
    AdminConnectionError,
    AdminResponseError,
    AuthenticationError,
    ExternalKeyChangedError,
    ExternalKeyValidationTimeoutError,
    InternalServerError,
    RateLimitError,
    error_from_exception,
    error_from_response,
    unreadable,
)
from cmek.anthropic.models import AdminObject
from cmek.models import refusals

Model = TypeVar("Model", bound=AdminObject)
CONNECT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which failures of a kind of call may be retried."""

    effect: bool
    """Whether the call changes something, so that a lost response leaves its outcome unknown."""
    repeat: Literal["transient", "unambiguous", "never"]
    """Retry any transient failure, only those without any effect, or none."""

    def judge(self, error: Exception) -> RetryDecision:
        """Give up, retry with backoff, or wait as long as the server requested."""
        if not isinstance(error, AdminApiError) or self.repeat == "never":
            return False
        if error.ambiguous and self.repeat == "unambiguous":
            return False
        # the caller must read and decide again first
        if isinstance(error, ExternalKeyChangedError | ExternalKeyValidationTimeoutError):
            return False
        if not self._transient(error):
            return False
        return True if error.retry_after is None else error.retry_after

    def _transient(self, error: AdminApiError) -> bool:
        if error.failure.should_retry is not None:
            return error.failure.should_retry
        if isinstance(error, AdminConnectionError | RateLimitError | InternalServerError):
            return True
        if isinstance(error, AdminResponseError):
            return (error.status or 0) < 300  # a success cut short; a proxy's refusal is final
        # on a write 409 says that the state is another one than expected: it must be read first
        return error.status == 408 or (error.status == 409 and not self.effect)


LastCheck = Callable[[], None]


class Once(TypedDict, total=False):
    """What an attach or a create has besides its body, as in `AdminCall`."""

    signed_approvals: str
    last_check: LastCheck | None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for a whole response; `slow` for calls in which Anthropic waits for Cloud KMS."""

    usual: float
    slow: float


READ: Final = RetryPolicy(effect=False, repeat="transient")
IDEMPOTENT: Final = RetryPolicy(effect=True, repeat="transient")
CREATE: Final = RetryPolicy(effect=True, repeat="unambiguous")
ONCE: Final = RetryPolicy(effect=True, repeat="never")


@dataclass(frozen=True, slots=True)
class AdminCall:
    """One request, still without a credential."""

    method: str
    path: str
    policy: RetryPolicy
    seconds: float
    query: Mapping[str, Any] | None = None
    body: Mapping[str, Any] | None = None
    signed_approvals: str = ""
    """Sent to a gateway only."""
    last_check: LastCheck | None = None
    """Called when only the request itself is left to send; what it raises is raised, and nothing
    is sent. A credential may take a minute to get, so this comes after that.
    """


class AdminTransport:
    """The connections of one client; use it in one event loop only."""

    def __init__(self, base_url: str, credential: Credential, timeouts: Timeouts) -> None:
        self.base_url = check_base_url(base_url)
        self._credential = credential
        self.is_gateway = isinstance(credential, GatewayAccess)
        """Whether a cmek gateway at `base_url` holds the credential."""
        self.token_endpoint = getattr(credential, "token_endpoint", None)
        # a gateway validates the key before it attaches, so one request takes the time of two
        slow = timeouts.slow * (2 if self.is_gateway else 1)
        self._timeouts = Timeouts(timeouts.usual, slow)
        self._http = http_client(
            self.base_url, base_url=self.base_url, headers={"anthropic-version": ADMIN_API_VERSION}
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, model: type[Model], path: str, query: Mapping[str, Any]) -> Model:
        """Read an object or a page."""
        return await self._run(
            model, AdminCall("GET", path, READ, self._timeouts.usual, query=query)
        )

    async def post(
        self, model: type[Model], path: str, policy: RetryPolicy, body: Mapping[str, Any]
    ) -> Model:
        """Send a body."""
        return await self._run(
            model, AdminCall("POST", path, policy, self._timeouts.usual, body=body)
        )

    async def post_slow(
        self,
        model: type[Model],
        path: str,
        policy: RetryPolicy,
        body: Mapping[str, Any] | None,
        **once: Unpack[Once],
    ) -> Model:
        """Send a call, with or without a body, in which Anthropic waits for Cloud KMS."""
        call = AdminCall("POST", path, policy, self._timeouts.slow, None, body, **once)
        return await self._run(model, call)

    async def forward(self, call: AdminCall) -> httpx.Response:
        """Send a call of the gateway's client, with the credential of this one.

        It is not retried; only after a 401 it is sent once more, with a new token.

        Returns:
            The response, whatever its status.

        Raises:
            AdminApiError: No response, or no credential.
        """
        headers = await self._credential.headers(self._exchange)
        response = await self._respond(call, headers)
        if response.status_code != 401 or not self._credential.refused():
            return response
        return await self._respond(call, await self._credential.headers(self._exchange))

    async def _run(self, model: type[Model], call: AdminCall) -> Model:
        try:
            return await self._send_with_credential(model, call)
        except AuthenticationError as error:
            # a revoked token is replaced once; an attach must pass the gate again instead, and a
            # 401 of the token request itself is about the federation rule
            at_exchange = error.failure.url.endswith(TOKEN_PATH)
            if at_exchange or not self._credential.refused() or call.policy.repeat == "never":
                raise
        return await self._send_with_credential(model, call)

    async def _send_with_credential(self, model: type[Model], call: AdminCall) -> Model:
        headers = await self._credential.headers(self._exchange)
        # only a gateway verifies approvals: they are never sent to Anthropic
        if self.is_gateway and call.signed_approvals:
            headers[APPROVALS_HEADER] = encoded_approvals(call.signed_approvals)
        if call.last_check is not None:
            call.last_check()
        return await self._repeat(model, call, headers)

    async def _exchange(self, form: dict[str, str]) -> AccessToken:
        call = AdminCall("POST", TOKEN_PATH, READ, self._timeouts.usual, body=form)
        return await self._repeat(AccessToken, call, {"anthropic-beta": FEDERATION_BETA})

    async def _repeat(self, model: type[Model], call: AdminCall, headers: dict[str, str]) -> Model:
        return await retrying(lambda: self._send(model, call, headers), call.policy.judge)

    async def _send(self, model: type[Model], call: AdminCall, headers: dict[str, str]) -> Model:
        return _read(model, await self._respond(call, headers), effect=call.policy.effect)

    async def _respond(self, call: AdminCall, headers: dict[str, str]) -> httpx.Response:
        request = self._http.build_request(
            call.method,
            call.path,
            params=call.query,
            json=call.body,
            headers=headers,
            timeout=httpx.Timeout(call.seconds, connect=CONNECT_SECONDS),
        )
        try:
            # httpx's read timeout starts again with every byte; this one is for the whole response
            async with asyncio.timeout(call.seconds + CONNECT_SECONDS):
                return await send_bounded(self._http, request)
        except (httpx.HTTPError, TimeoutError) as error:
            problem = error_from_exception(error, request, effect=call.policy.effect)
        # outside the handler: httpx's exception holds the request, and with it the credential
        raise problem


def _read(model: type[Model], response: httpx.Response, *, effect: bool) -> Model:
    if not response.is_success:
        raise error_from_response(response, effect=effect)
    request_id = response.headers.get("request-id")
    try:
        body = response.json()
        return model.model_validate({**body, "request_id": request_id})
    except ValidationError as error:
        what = "; ".join(refusals(error, values=False))  # a response may hold a token
    except (ValueError, TypeError, RecursionError):
        what = f"not JSON ({response.headers.get('content-type')}, {len(response.content)} bytes)"
    raise unreadable(response, what, effect=effect)
