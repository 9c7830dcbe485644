"""What every client here shares: repeats, bounded responses, caught reads.

One layer repeats a request whose transport failed: at most 4 attempts, none started later than
60 s after the first, exponential backoff with jitter, `Retry-After` honoured. Conditions that need
new reads (a failed validation, a concurrent policy change) are not transport errors and are not
repeated here.
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
from cmek.anthropic.errors import AdminApiError
from cmek.gcp.errors import GoogleApiError

_log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS: Final = 4
BUDGET_SECONDS: Final = 60.0
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0
READ_SECONDS: Final = 25.0
"""How long one read may take with all its attempts; a check then says `unknown`."""
MAX_BYTES: Final = 16 * 1024 * 1024
"""Of one response, unpacked. The largest documented one is a page of 1,000 objects."""

RetryDecision = bool | float
"""After an error: give up (False), wait as usual (True), or the seconds that the server named."""


async def retrying(
    send: Callable[[], Awaitable[T]],
    judge: Callable[[Exception], RetryDecision],
    *,
    attempts: int = ATTEMPTS,
) -> T:
    """Call `send` until it returns, `judge` gives up, or attempts or time run out.

    A server that wants a longer wait than is left ends it at once.

    Raises:
        Exception: whatever the last `send` raised.
    """
    deadline = time.monotonic() + BUDGET_SECONDS

    def decide(error: Exception) -> RetryDecision:
        verdict = judge(error)
        if isinstance(verdict, bool):
            return verdict
        if verdict > deadline - time.monotonic():
            return False
        return verdict + random.uniform(0, 0.5)  # noqa: S311 - jitter, not a secret

    async for attempt in stamina.retry_context(
        on=decide,
        attempts=attempts,
        timeout=BUDGET_SECONDS - _LONGEST_WAIT,
        wait_initial=_FIRST_WAIT,
        wait_max=_LONGEST_WAIT,
        wait_jitter=_FIRST_WAIT,
    ):
        with attempt:
            return await send()
    raise AssertionError("stamina ends with a result or an error")


def _log_retry(details: RetryDetails) -> None:
    _log.warning(
        "attempt %d failed, next in %.1f s: %s",
        details.retry_num,
        details.wait_for,
        details.caused_by,
    )


set_on_retry_hooks([_log_retry])  # stamina's own line does not name the cause


def http_client(address: str | None, **options: Any) -> httpx.AsyncClient:  # noqa: ANN401 - httpx's
    """A client for an address (None: a service's own); only beyond loopback through a proxy.

    A proxy is for the internet: it must not see a token that is meant for this machine.
    """
    trust_env = address is None or not is_loopback(address)
    verify = _authorities(trust_env=trust_env)
    return httpx.AsyncClient(verify=verify, trust_env=trust_env, **options)


@cache
def _authorities(*, trust_env: bool) -> ssl.SSLContext:
    """The trusted certificate authorities, read once: httpx would read them for each client."""
    return httpx.create_ssl_context(trust_env=trust_env)


async def send_bounded(http: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Send, and read the response as long as it is not too long.

    Raises:
        httpx.DecodingError: It is longer than `MAX_BYTES`, packed or unpacked.
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
    """Google's canonical name (`PERMISSION_DENIED`), the Admin API's HTTP status, or `TIMEOUT`."""
    text: str
    reason: str | None = None
    """Google's ErrorInfo reason, such as `SERVICE_DISABLED`."""
    service: str | None = None
    """The API that refused, where Google names it."""
    consumer: str | None = None
    """`projects/N`, in which that API has to be on: the caller's quota project, at times."""
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
    """Wait for a read and catch what the clients raise.

    Other exceptions are bugs and go through.

    Args:
        read: The call.
        seconds: For how long; None: as long as its client waits. A validation may take longer than
            a read.
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
    except AdminApiError as error:
        return Failed(str(error.status or "CONNECTION"), str(error), remedy=error.advice or None)
    except TimeoutError:
        if seconds is None:  # not ours
            raise
        return Failed("TIMEOUT", f"no answer within {seconds:.0f} s")


def ok_value(read: Result[T] | None) -> T | None:
    """The value, or None when there is none."""
    return read.value if isinstance(read, Ok) else None
