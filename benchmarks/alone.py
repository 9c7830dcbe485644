"""How long Prefect alone takes: its server on a new PostgreSQL, a worker, runs of an empty flow.

It is started as by hand, without this project's flows. Each run is suspended once and resumed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate

from cli.client import every, local_client
from cli.local import postgres, processes
from cli.local._reaper import Reaper
from cli.local.stack import (
    FIRST_WORKER,
    LOOPBACK,
    WORK_POOL,
    client_environment,
    patient_client,
    start_server,
    start_worker,
    wait_for_server,
)
from cmek.own_origin import listening_socket

FLOW: Final = """
from prefect import flow, suspend_flow_run

@flow
def empty():
    suspend_flow_run(key="once")
"""
_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class PrefectAlone:
    """A stack with one deployment, of the empty flow."""

    client: SyncPrefectClient
    deployment: UUID

    def start(self, runs: int) -> None:
        """Create that many runs."""
        for _ in range(runs):
            self.client.create_flow_run_from_deployment(self.deployment)

    def resume_all(self) -> None:
        """Resume every run."""
        for run in every(self.client.read_flow_runs):
            self.client.resume_flow_run(run.id)

    def wait_for(self, state: str, runs: int, seconds: float = _SECONDS) -> None:
        """Wait until that many runs are in the state with this name.

        Raises:
            TimeoutError: they are not within `seconds`.
        """

        def reached() -> bool:
            found = every(self.client.read_flow_runs)
            return sum(run.state_name == state for run in found) >= runs

        _until(reached, seconds)


@contextmanager
def prefect_alone() -> Iterator[PrefectAlone]:
    """Start the stack and wait for its worker; its files are removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="cmek-bench-"))
    (home / "tmp").mkdir()
    folder = postgres.new_folder()
    reaper = Reaper(home, folder)
    listener = listening_socket(LOOPBACK, 0)
    environment = client_environment(home, listener.getsockname()[1])
    del environment["PREFECT_API_SSL_CERT_FILE"]  # our stack's optimization, not Prefect's default
    children = []
    try:
        database = postgres.start(folder, environment)
        children.append(start_server(home, listener, environment, database.url()))
        api_url = environment["PREFECT_API_URL"]
        with patient_client(api_url) as api:
            wait_for_server(children[0], api)
        with local_client(api_url) as client:
            client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
            children.append(start_worker(home, environment, FIRST_WORKER))
            _until(lambda: bool(client.read_workers_for_work_pool(WORK_POOL)))
            yield PrefectAlone(client, _deploy(client, home / "flow"))
    finally:
        processes.stop(children)
        reaper.finish()


def _deploy(client: SyncPrefectClient, folder: Path) -> UUID:
    folder.mkdir()  # its own, almost empty: Prefect copies the folder for each run
    (folder / "empty.py").write_text(FLOW, encoding="utf-8")
    return client.create_deployment(
        client.create_flow_from_name("empty"),
        "empty",
        work_pool_name=WORK_POOL,
        path=str(folder),
        entrypoint="empty.py:empty",
    )


def _until(holds: Callable[[], bool], seconds: float = _SECONDS) -> None:
    if processes.poll(lambda: holds() or None, seconds=seconds, pause=_POLL_SECONDS) is None:
        raise TimeoutError("the stack of Prefect alone did not reach the expected state")
