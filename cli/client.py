"""Prefect's clients, for a server of our own or for the configured one, and reading runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import TaskRunSort
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_UI_URL

from cmek.addresses import EndpointError, check_endpoint, is_loopback
from cmek.errors import CmekError

T = TypeVar("T")
_REASON: Final = 400
"""The most characters of a server's message that are shown."""
WAITING: Final = 3
"""Exit code when the run waits for an approval."""
PAGE: Final = 200
"""The most that Prefect's API lists at once."""


class NoServerError(CmekError):
    """No Prefect server is configured or reachable: says which and how to name one."""


class ServerAwayError(NoServerError):
    """Nothing answers at the configured address."""


class ServerRefusedError(CmekError):
    """The Prefect server refused a call: says which, why, and what to do."""


def local_client(api_url: str) -> SyncPrefectClient:
    """A client for a server on loopback, without any proxy and without the caller's credentials."""
    return SyncPrefectClient(api_url, httpx_settings={"trust_env": False})


def local_async_client(api_url: str) -> PrefectClient:
    """The same, for calls that only the asynchronous client has."""
    return PrefectClient(api_url, httpx_settings={"trust_env": False})


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """A client for the server of the caller's profile or environment, with its credentials.

    One cheap call comes first, so that a wrong address or login is named before anything is done.

    Raises:
        NoServerError: none is configured (Prefect would start a temporary one), it does not
            respond, or what is at the address is no Prefect API.
        ServerRefusedError: it refused the login, or a call in the caller's `with` block.
    """
    url = configured_url()
    # Plain text is allowed on loopback only, and there no proxy may see the login.
    settings = {"trust_env": False} if is_loopback(url) else None
    with explained(url), get_client(httpx_settings=settings, sync_client=True) as client:
        check_api(client, url)
        yield client


_LOOPBACK: Final = ("127.", "localhost", "[::1]")
_NO_TLS: Final = "WRONG_VERSION_NUMBER"
"""In OpenSSL's error when the other side does not speak TLS."""


def configured_url() -> str:
    """The configured address of the server's API.

    Raises:
        NoServerError: there is none, or it must not be used; or no server can accept the login.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise NoServerError(
            "no Prefect server is configured: set PREFECT_API_URL, e.g. https://prefect.example/api"
        )
    if "://" not in url:
        scheme = "http" if url.startswith(_LOOPBACK) else "https"
        raise NoServerError(
            f"PREFECT_API_URL {url!r} has no scheme: did you mean {scheme}://{url}?"
        )
    try:
        check_endpoint(url)
    except EndpointError as error:
        raise NoServerError(f"PREFECT_API_URL: {error}") from error
    login = PREFECT_API_AUTH_STRING.value()
    if login is not None and not str(login).isascii():
        raise NoServerError(
            "PREFECT_API_AUTH_STRING holds a character that is not ASCII, and a Prefect server with"
            " such a login answers 500 to every call: choose another one, here and in the server's"
            " PREFECT_SERVER_API_AUTH_STRING"
        )
    return str(url)


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what Prefect's client raises into one line with the cause and what to do."""
    try:
        yield
    except httpx.TransportError as error:
        advice = "is it running, and is PREFECT_API_URL right?"
        if _NO_TLS in str(error):
            advice = "it speaks http, not https: is PREFECT_API_URL right?"
        raise ServerAwayError(
            f"Prefect server at {url}: {error or type(error).__name__}; {advice}"
        ) from error
    except httpx.HTTPStatusError as error:  # Prefect's own error is one of these
        raise ServerRefusedError(refusal(error.response)) from error


def check_api(client: SyncPrefectClient, url: str) -> str:
    """The server's version of Prefect, by the cheapest call that needs a login.

    Raises:
        NoServerError: what is there is no Prefect API.
        httpx.HTTPStatusError: it refused the call.
    """
    version = None
    try:
        version = client.request("GET", "/admin/version").json()
    except httpx.HTTPStatusError as error:
        if error.response.is_redirect:
            raise NoServerError(
                f"what is at {url} sends elsewhere ({redirect_target(error.response)}): a proxy"
                " before the Prefect server wants another login, or PREFECT_API_URL has http in"
                " the place of https"
            ) from error
        if error.response.status_code not in {404, 405}:
            raise
    except ValueError:
        pass  # a page instead of JSON
    if not isinstance(version, str):
        bare = not httpx.URL(url).path.strip("/")
        hint = f"; did you mean {url.rstrip('/')}/api?" if bare else ""
        raise NoServerError(
            f"what is at {url} is no Prefect API: PREFECT_API_URL is the server's address with"
            f" /api at its end{hint}"
        )
    return str(version)


def redirect_target(response: httpx.Response) -> str:
    """Where a redirect leads, without the query, which is for the login page."""
    location: str = response.headers.get("location", "nowhere")
    return location.partition("?")[0][:_REASON]


def refusal(response: httpx.Response) -> str:
    """Why the server refused a call, and what to do about it."""
    request = response.request
    call = f"{request.method} {request.url.path}"
    server = f"the Prefect server at {request.url.host}"
    reason = _reason(response)
    if response.status_code == 401:
        wrong = "authorization" in request.headers
        given = "refuses the login in PREFECT_API_AUTH_STRING" if wrong else "wants a login"
        return (
            f"{server} {given}: set PREFECT_API_AUTH_STRING to the user:password of the server's"
            " PREFECT_SERVER_API_AUTH_STRING"
        )
    if response.status_code == 403 and "csrf" in reason.lower():
        return (
            f"{server} wants a CSRF token ({reason}): leave PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"
            " on, and use a client of the server's version"
        )
    if response.status_code == 403:
        return (
            f"{server} refuses {call} with 403 ({reason}): a proxy before it wants another login,"
            " or its own page's address; PREFECT_CLIENT_CUSTOM_HEADERS and PREFECT_API_AUTH_STRING"
            " hold what is sent"
        )
    if response.status_code >= 500:
        return (
            f"{server} failed at {call} with {response.status_code} ({reason}): its log says why;"
            " `cmek doctor` checks the usual causes"
        )
    return f"{server} refused {call} with {response.status_code}: {reason}"


def _reason(response: httpx.Response) -> str:
    """The server's own message, shortened."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        said = body.get("detail") or body.get("exception_detail") or body.get("exception_message")
        if said:
            return str(said)[:_REASON]
    return response.reason_phrase or "no reason given"


def calling(client: PrefectClient, call: Callable[[PrefectClient], Awaitable[T]]) -> T:
    """Use the asynchronous client from a process without an event loop; it is closed at the end."""

    async def called() -> T:
        async with client:
            return await call(client)

    return asyncio.run(called())


def every(read: Callable[..., list[T]], **wanted: object) -> Iterator[T]:
    """All objects that a reading method of a client lists, over all pages."""
    offset = 0
    while page := read(**wanted, limit=PAGE, offset=offset):
        offset += len(page)
        yield from page


def run_url(client: SyncPrefectClient, run_id: UUID) -> str:
    """Where a browser shows the run."""
    api_url = str(client.api_url).rstrip("/")
    configured = api_url == (PREFECT_API_URL.value() or "").rstrip("/")
    base = (PREFECT_UI_URL.value() if configured else None) or api_url.removesuffix("/api")
    return f"{base.rstrip('/')}/runs/flow-run/{run_id}"


def run_facts(client: SyncPrefectClient, run: FlowRun) -> dict[str, str | None]:
    """The facts about a run that every command prints as JSON."""
    state = run.state
    return {
        "run_id": str(run.id),
        "run": run.name,
        "url": run_url(client, run.id),
        "state": state.name if state else None,
        "state_type": state.type.value if state else None,
        "message": state.message if state else None,
        "at": state.timestamp.isoformat() if state else None,
    }


class RunError(CmekError):
    """A run could not be found, or a command was given wrongly: says why and what to do."""


def find_run(client: SyncPrefectClient, name_or_id: str) -> FlowRun:
    """Read a run by its id, or by its name when only one has it.

    Raises:
        RunError: none or several fit.
    """
    try:
        wanted: dict[str, Any] = {"id": {"any_": [UUID(name_or_id)]}}
    except ValueError:
        wanted = {"name": {"any_": [name_or_id]}}
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted), limit=2)
    if len(runs) != 1:
        many = "no run" if not runs else "more than one run"
        raise RunError(f"run {name_or_id!r}: {many} of this id or name; `cmek pending` lists ids")
    return runs[0]


def task_runs(client: SyncPrefectClient, run_id: UUID) -> list[TaskRun]:
    """The run's tasks so far, in the order in which they were expected to start."""
    return client.read_task_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run_id]}}),
        sort=TaskRunSort.EXPECTED_START_TIME_ASC,
        limit=PAGE,
    )
