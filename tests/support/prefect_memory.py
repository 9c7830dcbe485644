"""Prefect in memory: its client and flow engine, with another transport and without a server.

The transport of Prefect's client is all that is replaced, and a task is its plain function. So a
run costs a tenth of what it costs with a server. Left out are whatever no call here asks for (a
path or filter that is not known fails), and: runs of tasks, events and logs of the engine, waiting
for a scheduled time, states set in a way that only the server's own rules would refuse, what
outlives the process. `make prove` executes every test that uses this on a real server too, so that
a difference between the two shows.
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
"""Where no service of a machine listens."""


@contextmanager
def memory_prefect(api: MemoryPrefect) -> Iterator[None]:
    """Let this process talk to that server, and execute tasks as plain functions."""
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
    """They hold a client for one server, and a slot would be taken there and given back here."""
    ConcurrencySlotAcquisitionWithLeaseService.drain_all()


@contextmanager
def _in_place_of_network(api: MemoryPrefect) -> Iterator[None]:
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
        # it waits for events, so that somebody else can suspend a run that executes
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
