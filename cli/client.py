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
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

from cmek._http import check_endpoint
from cmek.errors import CmekError

T = TypeVar("T")
PAGE: Final = 200
"""The most that Prefect's API lists at once."""


class NoServerError(CmekError):
    """No Prefect server is configured or reachable: says which and how to name one."""


def local_client(api_url: str) -> SyncPrefectClient:
    """A client for a server on loopback, past any proxy and without the caller's credentials."""
    return SyncPrefectClient(api_url, httpx_settings={"trust_env": False})


def local_async_client(api_url: str) -> PrefectClient:
    """The same, for what only the asynchronous client can."""
    return PrefectClient(api_url, httpx_settings={"trust_env": False})


@contextmanager
def connected() -> Iterator[SyncPrefectClient]:
    """A client for the server of the caller's profile or environment, with its credentials.

    Raises:
        NoServerError: none is configured (Prefect would start a temporary one), or it is away.
        EndpointError: the address is plain text beyond loopback.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise NoServerError(
            "no Prefect server is configured: set PREFECT_API_URL, e.g. https://prefect.example/api"
        )
    check_endpoint(url)
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.TransportError as error:
        raise NoServerError(
            f"Prefect server at {url}: {error or type(error).__name__}; is it running, and is"
            " PREFECT_API_URL right?"
        ) from error


def calling(client: PrefectClient, call: Callable[[PrefectClient], Awaitable[T]]) -> T:
    """Use the asynchronous client from a process without an event loop; it is closed at the end."""

    async def called() -> T:
        async with client:
            return await call(client)

    return asyncio.run(called())


def every(read: Callable[..., list[T]], **wanted: object) -> Iterator[T]:
    """What a reading method of a client lists, over all pages."""
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
