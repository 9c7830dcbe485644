"""A Prefect server for flows that this process executes itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from cli.local.processes import stop
from cli.local.stack import (
    client_environment,
    free_port,
    patient_client,
    start_server,
    wait_for_server,
)
from tests.support.postgres import new_database

_SENT_SECONDS = 30.0


@contextmanager
def lone_server() -> Iterator[str]:
    """Start one with an empty database, and let this process talk to it; gives its API's address.

    Not Prefect's test harness, whose server is on SQLite: a busy one answers 503.
    """
    with tempfile.TemporaryDirectory(prefix="cmek-lone-") as scratch:
        home = Path(scratch)
        (home / "tmp").mkdir()
        port = free_port()
        environment = client_environment(home, port)
        address = environment["PREFECT_API_URL"]
        server = start_server(home, port, environment, new_database())
        try:
            with patient_client(address) as api:
                wait_for_server(server, api)
            with temporary_settings({PREFECT_API_URL: address}):
                yield address
                for worker in (APILogWorker, EventsWorker):
                    worker.drain_all(timeout=_SENT_SECONDS, at_exit=False)
        finally:
            stop([server])
