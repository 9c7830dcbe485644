"""Database, server, worker and sandbox, in a private home that is removed again.

The database is behind a Unix socket, the others are on free loopback ports.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from console import postgres, prefect_server, processes
from console.deploying import PROJECT, PROJECT_VARIABLE
from console.guardian import Guardian
from console.processes import Child
from console.sandbox_process import SandboxAddress, start_sandbox, wait_for_sandbox

_SET_UP_SECONDS = 120.0


@dataclass
class LocalStack:
    """What runs, where it is, and how long each phase of the start took."""

    home: Path
    api_url: str
    environment: Mapping[str, str]
    sandbox: SandboxAddress
    seconds: dict[str, float]
    children: list[Child] = field(default_factory=list)

    @property
    def ui_url(self) -> str:
        """Where a browser goes."""
        return self.api_url.removesuffix("/api")

    @property
    def logs(self) -> dict[str, Path]:
        """The log file of each part."""
        return {child.name: child.log for child in self.children}

    def check(self) -> None:
        """Notice a part that has ended by itself.

        Raises:
            StackError: names it and shows its log.
        """
        for child in self.children:
            if not child.is_running:
                raise child.failure("is gone")

    def start_worker(self, name: str = "local") -> Child:
        """Start a worker and wait until it is online."""
        worker = prefect_server.start_worker(self.home, self.environment, name)
        self.children.append(worker)
        with prefect_server.patient_client(self.api_url) as api:
            prefect_server.wait_for_worker(worker, api, name)
        return worker


@contextlib.contextmanager
def local_stack(
    *,
    prefect_file: Path = PROJECT / "prefect.yaml",
    sandbox_arguments: Sequence[str] = (),
    extra_environment: Mapping[str, str] | None = None,
    database_url: str | None = None,
) -> Iterator[LocalStack]:
    """Start everything; at the end, however it comes, stop everything and remove the home.

    The server's database is a PostgreSQL of the stack's own, unless `database_url` names another.
    SIGINT and SIGTERM end the block with `SystemExit`; after SIGKILL the guardian cleans up.

    Raises:
        StackError: a part did not start; names it and shows its log.
    """
    with processes.ending_on_signals():
        home = Path(tempfile.mkdtemp(prefix="cmek-"))
        database = postgres.new_folder() if database_url is None else None
        guardian = Guardian(home, database)
        children: list[Child] = []
        watch = _Stopwatch()
        try:
            (home / "tmp").mkdir()
            port = prefect_server.free_port()
            environment = prefect_server.client_environment(home, port)
            environment |= extra_environment or {}
            children.append(start_sandbox(home, environment, sandbox_arguments))
            if database is not None:
                own = postgres.start(database, environment)
                children.append(own.child)
                database_url = own.url()
            watch.lap("database")
            server = prefect_server.start_server(home, port, environment, str(database_url))
            children.append(server)
            yield _set_up(home, environment, children, prefect_file, watch)
        finally:
            with processes.undisturbed():
                processes.stop(children)
                guardian.finish()


def _set_up(
    home: Path,
    environment: Mapping[str, str],
    children: list[Child],
    prefect_file: Path,
    watch: _Stopwatch,
) -> LocalStack:
    sandbox, server = children[0], children[-1]
    address = wait_for_sandbox(sandbox)
    watch.lap("sandbox")
    set_up = _start_set_up(home, environment, address)
    children.append(set_up)
    api_url = environment["PREFECT_API_URL"]
    with prefect_server.patient_client(api_url) as api:
        prefect_server.wait_for_server(server, api)
        watch.lap("server")
        prefect_server.create_work_pool(api)
    stack = LocalStack(home, api_url, environment, address, watch.seconds, children)
    deploying = {**environment, PROJECT_VARIABLE: address.project_id}
    deploy = prefect_server.start_deploy(home, deploying, prefect_file)
    children.append(deploy)
    stack.start_worker()
    watch.lap("worker")
    for job in (set_up, deploy):
        processes.wait_for_exit(job, seconds=_SET_UP_SECONDS)
        children.remove(job)
        watch.lap(job.name)
    return stack


def _start_set_up(home: Path, environment: Mapping[str, str], address: SandboxAddress) -> Child:
    address_file = home / "sandbox.json"
    address_file.touch(mode=0o600)
    address_file.write_text(address.model_dump_json())
    return processes.start(
        "blocks",
        [sys.executable, "-m", "console.set_up", str(address_file)],
        environment=environment,
        directory=home,
        log=home / "blocks.log",
    )


class _Stopwatch:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now
