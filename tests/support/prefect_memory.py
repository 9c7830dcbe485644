"""Prefect in memory: its client and flow engine, with another transport and without a server.

Only the transport of Prefect's client is replaced, and tasks are called as plain functions. So a
run costs a tenth of one with a server. Left out are: paths and filters that no call here uses (an
unknown one fails), task runs, events and logs of the engine, waiting for a scheduled time, states
that only the server's own rules would refuse, and anything that outlives the process. `make prove`
executes every test that uses this on a real server too, and so shows any difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import httpx
import prefect.events.utilities
import prefect.flow_engine
from prefect.concurrency.services import ConcurrencySlotAcquisitionWithLeaseService
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)
from prefect.tasks import Task

from tests.support.plain import Plain
from tests.support.prefect_api import answer
from tests.support.prefect_state import MemoryPrefect

URL: Final = "http://127.0.0.1:1/api"
"""Nothing listens on port 1: a request that is not answered from memory fails at once."""


@contextmanager
def memory_prefect(api: MemoryPrefect) -> Iterator[None]:
    """Make this process use that server, and execute tasks as plain functions."""
    settings = {
        PREFECT_API_URL: URL,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,
        PREFECT_LOGGING_TO_API_ENABLED: False,
    }
    _end_services()
    with temporary_settings(settings), _in_place_of_network(api), _plain_tasks():
        try:
            yield
        finally:
            _end_services()


def _end_services() -> None:
    """End Prefect's slot services: each keeps a client of the server that it was made for."""
    ConcurrencySlotAcquisitionWithLeaseService.drain_all()


@contextmanager
def _in_place_of_network(api: MemoryPrefect) -> Iterator[None]:
    # only for this URL: our own clients in this process still reach the sandbox over the network
    answers = httpx.MockTransport(lambda request: answer(api, request))
    found = httpx.Client._transport_for_url, httpx.AsyncClient._transport_for_url

    def transport(self: httpx.Client, url: httpx.URL) -> Any:
        return answers if str(url).startswith(URL) else found[0](self, url)

    def async_transport(self: httpx.AsyncClient, url: httpx.URL) -> Any:
        return answers if str(url).startswith(URL) else found[1](self, url)

    with (
        patch.object(httpx.Client, "_transport_for_url", transport),
        patch.object(httpx.AsyncClient, "_transport_for_url", async_transport),
        patch.object(prefect.events.utilities, "should_emit_events", lambda: False),
        # it waits for events with which others suspend a running flow; there are none here
        patch.object(prefect.flow_engine, "observe_flow_run_suspension", _nothing_observed),
    ):
        yield


@contextmanager
def _nothing_observed(*args: Any, **kwargs: Any) -> Iterator[None]:
    yield


@contextmanager
def _plain_tasks() -> Iterator[None]:
    def call(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        return Plain(self)(*args, **kwargs)

    with patch.object(Task, "__call__", call):
        yield
