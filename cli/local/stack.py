"""A Prefect server and worker of our own, as child processes, and what is set up on the server.

Database, server, worker and sandbox, in a private home that is removed again.

The database is behind a Unix socket, the others are on free loopback ports.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from cli.deploy import PROJECT, PROJECT_VARIABLE
from cli.local import postgres, processes
from cli.local._reaper import Reaper
from cli.local.processes import Child, start, wait_for
from cli.local.sandbox import SandboxAddress, start_sandbox, wait_for_sandbox

WORKER: Final = "Prefect worker"
WORK_POOL: Final = "cmek"
AT_ONCE: Final = 8
"""Runs that execute at the same time: each takes a core and 200 MB. Those that wait don't count."""
LOOPBACK: Final = "127.0.0.1"

_SERVER_START_SECONDS = 120.0
_ANSWER_SECONDS = 60.0
_KEPT_VARIABLES: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ")


def free_port() -> int:
    """A loopback TCP port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def client_environment(home: Path, port: int) -> dict[str, str]:
    """The environment of every process that talks to the server: no more than it needs.

    Nothing of the caller's Prefect profiles, cloud credentials or proxies comes through, because
    only the variables named here are passed on and `HOME` is the private one.
    """
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }


def start_server(home: Path, port: int, environment: Mapping[str, str], database_url: str) -> Child:
    """Start the server; its user interface is told the port too, or it would ask another one.

    What the environment says outweighs what is chosen here.
    """
    own = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
        # Kept out of the database, where it would lie beside what it encrypts.
        "PREFECT_SERVER_ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        # By default a restarted server forgets who holds which slot, and no slot becomes free.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
    }
    return start(
        "Prefect server",
        [sys.executable, "-m", "prefect", "server", "start"],
        environment={**own, **environment},
        directory=home,
        log=home / "server.log",
    )


def patient_client(api_url: str) -> httpx.Client:
    """A client for a server that may have just started on a busy machine."""
    return httpx.Client(base_url=api_url, trust_env=False, timeout=_ANSWER_SECONDS)


def wait_for_server(server: Child, api: httpx.Client) -> None:
    """Wait until the server says that it is healthy."""
    wait_for(server, lambda: _healthy(api), what="healthy", seconds=_SERVER_START_SECONDS)


def start_worker(home: Path, environment: Mapping[str, str], name: str) -> Child:
    """Start a worker for the pool, which must exist: a worker would make one from the default."""
    return start(
        WORKER,
        [
            *(sys.executable, "-m", "prefect", "worker", "start"),
            *("--pool", WORK_POOL, "--type", "process", "--name", name),
        ],
        environment=environment,
        directory=home,
        log=home / f"worker-{name}.log",
    )


def wait_for_worker(worker: Child, api: httpx.Client, name: str) -> None:
    """Wait until the server knows the worker as online."""
    wait_for(
        worker, lambda: _worker_online(api, name), what="online", seconds=_SERVER_START_SECONDS
    )


def create_work_pool(api: httpx.Client) -> None:
    """Create the process pool whose jobs get no environment, command or directory from a run.

    Raises:
        httpx.HTTPStatusError: the server refused.
    """
    template: dict[str, Any] = json.loads((PROJECT / "deploy" / "work_pool.json").read_text())
    body = {"name": WORK_POOL, "type": "process", "base_job_template": template}
    api.post("/work_pools/", json=body).raise_for_status()
    _limit_queue(api)


def _limit_queue(api: httpx.Client) -> None:
    """Let a burst of runs wait its turn.

    Not by the worker's --limit: a run that is resumed before its process has ended kills the worker
    then ("this borrower is already holding one of this CapacityLimiter's tokens").
    """
    limit = {"concurrency_limit": AT_ONCE}
    api.patch(f"/work_pools/{WORK_POOL}/queues/default", json=limit).raise_for_status()


def start_deploy(home: Path, environment: Mapping[str, str], prefect_file: Path) -> Child:
    """Start what `cmek deploy` does, on a prefect.yaml."""
    return start(
        "deployments",
        [sys.executable, "-m", "cli.deploy", str(prefect_file)],
        environment=environment,
        directory=home,
        log=home / "deploy.log",
    )


def _healthy(api: httpx.Client) -> bool | None:
    try:
        return True if api.get("/health").status_code == 200 else None
    except httpx.TransportError:
        return None


def _worker_online(api: httpx.Client, name: str) -> bool | None:
    answer = api.post(f"/work_pools/{WORK_POOL}/workers/filter", json={})
    online = answer.status_code == 200 and any(
        w["name"] == name and w["status"] == "ONLINE" for w in answer.json()
    )
    return online or None


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
        worker = start_worker(self.home, self.environment, name)
        self.children.append(worker)
        with patient_client(self.api_url) as api:
            wait_for_worker(worker, api, name)
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
    SIGINT and SIGTERM end the block with `SystemExit`; after SIGKILL the reaper cleans up.

    Raises:
        StackError: a part did not start; names it and shows its log.
    """
    with processes.ending_on_signals():
        home = Path(tempfile.mkdtemp(prefix="cmek-"))
        database = postgres.new_folder() if database_url is None else None
        reaper = Reaper(home, database)
        children: list[Child] = []
        watch = _Stopwatch()
        try:
            (home / "tmp").mkdir()
            port = free_port()
            environment = client_environment(home, port)
            environment |= extra_environment or {}
            children.append(start_sandbox(home, environment, sandbox_arguments))
            if database is not None:
                own = postgres.start(database, environment)
                children.append(own.child)
                database_url = own.url()
            watch.lap("database")
            server = start_server(home, port, environment, str(database_url))
            children.append(server)
            yield _set_up(home, environment, children, prefect_file, watch)
        finally:
            with processes.ignore_signals():
                processes.stop(children)
                reaper.finish()


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
    with patient_client(api_url) as api:
        wait_for_server(server, api)
        watch.lap("server")
        create_work_pool(api)
    stack = LocalStack(home, api_url, environment, address, watch.seconds, children)
    deploying = {**environment, PROJECT_VARIABLE: address.project_id}
    deploy = start_deploy(home, deploying, prefect_file)
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
        [sys.executable, "-m", "cli.local._register_blocks", str(address_file)],
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
