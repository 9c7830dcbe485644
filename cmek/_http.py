"""What all clients share: retries, a size limit for responses, and errors caught as values.

Requests are retried in this layer only: at most 4 attempts, none started later than 60 s after the
first, with exponential backoff and jitter, and `Retry-After` is honoured. Each client decides with
its `judge` what may be retried. A condition that needs new reads, such as a failed validation, is
not a transport error and is left to the caller.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Generic, TypeAlias, TypeVar

import httpx
import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from cmek.addresses import is_loopback
from cmek.anthropic.errors import AdminApiError, AdminResponseError
from cmek.gcp.errors import GoogleApiError

_log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS: Final = 4
BUDGET_SECONDS: Final = 60.0
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0
READ_SECONDS: Final = 25.0
"""How long one read may take, retries included; after that the check is `unknown`."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Limit for one uncompressed response. The largest documented one is a page of 1,000 objects."""

RetryDecision = bool | float
"""After an error: give up (False), retry with backoff (True), or wait this many seconds first."""


async def retrying(
    send: Callable[[], Awaitable[T]],
    judge: Callable[[Exception], RetryDecision],
    *,
    attempts: int = ATTEMPTS,
) -> T:
    """Call `send` until it succeeds, `judge` gives up, or no attempts or no time are left.

    When the server asks for a longer wait than the time that is left, it gives up at once.

    Raises:
        Exception: Whatever the last `send` raised.
    """
    async for attempt in _attempts(judge, attempts):
        with attempt:
            return await send()
    raise AssertionError("stamina ends with a result or an error")


def retrying_in_thread(send: Callable[[], T], judge: Callable[[Exception], RetryDecision]) -> T:
    """The same for a client that blocks."""
    for attempt in _attempts(judge, ATTEMPTS):
        with attempt:
            return send()
    raise AssertionError("stamina ends with a result or an error")


def _attempts(judge: Callable[[Exception], RetryDecision], number: int) -> Any:  # noqa: ANN401 - stamina does not export it
    deadline = time.monotonic() + BUDGET_SECONDS

    def decide(error: Exception) -> RetryDecision:
        verdict = judge(error)
        if isinstance(verdict, bool):
            return verdict
        if verdict > deadline - time.monotonic():
            return False
        return verdict + random.uniform(0, 0.5)  # noqa: S311 - jitter, not a secret

    return stamina.retry_context(
        on=decide,
        attempts=number,
        # stamina checks its timeout before a wait: the wait itself must fit into the budget
        timeout=BUDGET_SECONDS - _LONGEST_WAIT,
        wait_initial=_FIRST_WAIT,
        wait_max=_LONGEST_WAIT,
        wait_jitter=_FIRST_WAIT,
    )


def _log_retry(details: RetryDetails) -> None:
    _log.warning(
        "attempt %d failed, next in %.1f s: %s",
        details.retry_num,
        details.wait_for,
        details.caused_by,
    )


set_on_retry_hooks([_log_retry])  # stamina's own line does not name the cause


def http_client(address: str | None, **options: Any) -> httpx.AsyncClient:  # noqa: ANN401 - httpx's
    """An HTTP client; proxy settings of the environment are ignored for an address on loopback.

    A proxy must not see a token that is meant for this machine. Without an address the client is
    for the public address of a service.
    """
    trust_env = address is None or not is_loopback(address)
    verify = _authorities(trust_env=trust_env)
    return httpx.AsyncClient(verify=verify, trust_env=trust_env, **options)


@cache
def _authorities(*, trust_env: bool) -> ssl.SSLContext:
    """The trusted certificate authorities, loaded once; httpx would load them for every client."""
    return httpx.create_ssl_context(trust_env=trust_env)


async def send_bounded(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send a request and read its response, up to `MAX_BYTES`.

    Raises:
        httpx.DecodingError: The uncompressed response is longer than `MAX_BYTES`.
        httpx.HTTPError: As `httpx.AsyncClient.send`.
    """
    response = await http.send(request, stream=True)
    content = bytearray()
    try:
        async for part in response.aiter_bytes():
            content += part
            if len(content) > MAX_BYTES:
                message = f"the response is longer than {MAX_BYTES} bytes"
                raise httpx.DecodingError(message, request=request)
    finally:
        await response.aclose()
    # the content is uncompressed by now: with these headers httpx would decode it again
    kept = [
        (name, value)
        for name, value in response.headers.multi_items()
        if name not in {"content-encoding", "content-length", "transfer-encoding"}
    ]
    return httpx.Response(
        response.status_code, headers=kept, content=bytes(content), request=request
    )


@dataclass(frozen=True, slots=True)
class Ok(Generic[T]):
    """The read gave a value."""

    value: T


@dataclass(frozen=True, slots=True)
class Failed:
    """The service refused, failed, or did not respond in time."""

    status: str
    """Google's canonical name (`PERMISSION_DENIED`), the Admin API's HTTP status, or one of ours:
    `TIMEOUT`, `CONNECTION`, and `NOT_ANTHROPIC` for a response that is not the Admin API's.
    """
    text: str
    reason: str | None = None
    """Google's ErrorInfo reason, such as `SERVICE_DISABLED`."""
    service: str | None = None
    """The API that refused, where Google names it."""
    consumer: str | None = None
    """`projects/N`, in which that API must be enabled; it may be the caller's quota project."""
    remedy: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def is_api_off(self) -> bool:
        """Whether the API is not enabled."""
        return self.reason == "SERVICE_DISABLED"

    @property
    def is_perimeter(self) -> bool:
        """Whether VPC Service Controls refused the read."""
        return self.reason == "SECURITY_POLICY_VIOLATED"


Result: TypeAlias = Ok[T] | Failed


async def try_read(read: Awaitable[T], seconds: float | None = READ_SECONDS) -> Result[T]:
    """Await a read; return the errors of our clients as `Failed`.

    Any other exception is a bug and is not caught.

    Args:
        read: The call.
        seconds: Time limit; None leaves it to the client, for a validation, which takes longer.
    """
    try:
        async with asyncio.timeout(seconds):
            return Ok(await read)
    except GoogleApiError as error:
        problem = error.problem
        return Failed(
            problem.status,
            str(error),
            reason=problem.reason,
            service=problem.metadata.get("service"),
            consumer=problem.metadata.get("consumer"),
            remedy=problem.advice or None,
        )
    except AdminResponseError as error:  # its status is that of a proxy, say
        return Failed("NOT_ANTHROPIC", str(error), remedy=error.advice or None)
    except AdminApiError as error:
        return Failed(str(error.status or "CONNECTION"), str(error), remedy=error.advice or None)
    except TimeoutError:
        if seconds is None:  # not from our time limit, so not ours to interpret
            raise
        return Failed("TIMEOUT", f"no answer within {seconds:.0f} s")


def ok_value(read: Result[T] | None) -> T | None:
    """The value of a successful read; None for a failed one, or when nothing was read."""
    return read.value if isinstance(read, Ok) else None
