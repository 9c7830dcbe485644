"""What every client here shares: repeats, bounded responses, allowed addresses, caught reads.

One layer repeats a request whose transport failed: at most 4 attempts, none started later than
60 s after the first, exponential backoff with jitter, `Retry-After` honoured. Conditions that need
new reads (a failed validation, a concurrent policy change) are not transport errors and are not
repeated here.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import Any, Final, Generic, TypeAlias, TypeVar
from urllib.parse import SplitResult, urlsplit

import httpx
import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from cmek.anthropic.errors import AdminApiError
from cmek.errors import CmekError
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
    """Who may vouch for a service, read once: each of httpx's clients would take 0.1 s for it."""
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


class EndpointError(CmekError, ValueError):
    """An address that no credential may be sent to: names it and says what is allowed."""


def check_endpoint(url: str) -> str:
    """Accept `https://host`, `http://` on loopback, or gRPC's `host:port`; drop a final slash.

    A `host:port` beyond loopback is spoken to over TLS (see `CloudKms.connect`).

    Raises:
        EndpointError: plain text beyond loopback, another scheme, user information or a query.
    """
    parts = _split(url)
    if parts.scheme not in {"", "http", "https"}:
        raise EndpointError(f"endpoint {url!r}: use https://HOST, or HOST:PORT for gRPC")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise EndpointError(f"endpoint of {parts.hostname!r}: only scheme, host, port and path")
    if parts.scheme == "http" and not is_loopback(url):
        raise EndpointError(
            f"endpoint {url!r} is plain text: use https, http is allowed on this machine only"
        )
    return url.rstrip("/")


_VERSION: Final = re.compile(r"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?=/|$)")
_SERVICES: Final = ("anthropic.com", "googleapis.com")


def check_base_url(url: str) -> str:
    """Accept what `check_endpoint` accepts, where a client can put an API's paths behind it.

    A path is for a proxy; the services themselves have none, and an API's version is ours to add.

    Raises:
        EndpointError: As `check_endpoint`; or a path such as `/v1`, which would be there twice.
    """
    accepted = check_endpoint(url)
    parts = _split(accepted)
    version = _VERSION.search(parts.path)
    if version is None and not (parts.path and f".{parts.hostname}".endswith(_SERVICES)):
        return accepted
    kept = (
        accepted[: len(accepted) - len(parts.path)]
        + parts.path[: version.start() if version else 0]
    )
    raise EndpointError(
        f"base URL {accepted!r}: write {kept!r}; what follows, /v1 and the path, is added to it"
    )


def is_loopback(url: str) -> bool:
    """Whether the address (URL or `host:port`) is this machine's own."""
    host = _split(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or any(character.isspace() for character in url):
        raise EndpointError(f"endpoint {url!r} is not an address: use https://HOST or HOST:PORT")
    return parts


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


async def try_read(read: Awaitable[T]) -> Result[T]:
    """Wait for a read and catch what the clients raise.

    Other exceptions are bugs and go through.
    """
    try:
        async with asyncio.timeout(READ_SECONDS):
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
        return Failed("TIMEOUT", f"no answer within {READ_SECONDS:.0f} s")


def ok_value(read: Result[T] | None) -> T | None:
    """The value, or None when there is none."""
    return read.value if isinstance(read, Ok) else None
