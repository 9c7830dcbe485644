"""A Prefect server for flows that this process or its children execute."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from cli.local._reaper import Reaper
from cli.local.processes import Child, stop
from cli.local.stack import (
    LOOPBACK,
    client_environment,
    patient_client,
    start_server,
    wait_for_server,
)
from cmek.own_origin import listening_socket
from tests.support.postgres import new_database

_SENT_SECONDS = 30.0
_UNUSED_SERVICES = (
    "CANCELLATION_CLEANUP",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "SCHEDULER",
    "TRIGGERS",
)
"""Services for workers, schedules and automations. They poll the database every few seconds and
read each event: half of an idle server's work. Tests that need them use a whole stack."""


def free_port() -> int:
    """A loopback TCP port that nobody listens on right now."""
    with listening_socket(LOOPBACK, 0) as probe:
        port: int = probe.getsockname()[1]
        return port


@dataclass
class OwnServer:
    """A server whose home, port and database remain when it is killed.

    It is not Prefect's test harness, because that uses SQLite, and answers 503 when it is busy.
    """

    home: Path
    port: int = field(default_factory=free_port)
    database_url: str = field(default_factory=new_database)
    settings: Mapping[str, str] = field(default_factory=dict)
    child: Child | None = None

    def __post_init__(self) -> None:
        (self.home / "tmp").mkdir()
        self.environment = client_environment(self.home, self.port)
        # the next server on this database must be able to read what this one has encrypted
        key = base64.urlsafe_b64encode(os.urandom(32)).decode()
        self._own = {**self.environment, **self.settings, "PREFECT_SERVER_ENCRYPTION_KEY": key}

    @property
    def api_url(self) -> str:
        """The address of its API."""
        return self.environment["PREFECT_API_URL"]

    def start(self) -> None:
        """Start it, again on the same database, and wait until it is healthy."""
        listener = listening_socket(LOOPBACK, self.port)
        self.child = start_server(self.home, listener, self._own, self.database_url)
        with patient_client(self.api_url) as api:
            wait_for_server(self.child, api)

    def kill(self) -> None:
        """Kill it at once, as when its machine is lost."""
        assert self.child is not None
        self.child.process.kill()
        self.child.process.wait()


@contextmanager
def own_server(**settings: str) -> Iterator[OwnServer]:
    """Start a server with an empty database, and make this process use it."""
    home = Path(tempfile.mkdtemp(prefix="cmek-server-"))
    reaper = Reaper(home)  # also ends the server of tests that are interrupted
    server = OwnServer(home, settings=settings)
    try:
        server.start()
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            yield server
    finally:
        stop([server.child] if server.child else [])
        reaper.finish()


@contextmanager
def lone_server() -> Iterator[str]:
    """Start a server without the unused services; yields the address of its API."""
    off = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _UNUSED_SERVICES}
    with own_server(**off) as server:
        yield server.api_url
        # threads of this process still send logs and events, and would fail without the server
        for worker in (APILogWorker, EventsWorker):
            worker.drain_all(timeout=_SENT_SECONDS, at_exit=False)
