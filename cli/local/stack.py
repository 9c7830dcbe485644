"""The local stack: PostgreSQL, Prefect server, worker and sandbox, in a home that is removed again.

The database is behind a Unix socket, the others are on free loopback ports.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
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
from cli.local.processes import Child, start_module, wait_for
from cli.local.sandbox import SandboxAddress, start_sandbox, wait_for_sandbox

WORKER: Final = "Prefect worker"
WORK_POOL: Final = "cmek"
AT_ONCE: Final = 8
"""Runs that execute at the same time: each takes a core and 200 MB. Those that wait don't count."""
LOOPBACK: Final = "127.0.0.1"

_START_SECONDS: Final = 120.0
_ANSWER_SECONDS: Final = 60.0
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
    """Start the server; what the environment says outweighs what is chosen here."""
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
    command = ["prefect", "server", "start"]
    return start_module("Prefect server", command, home, {**own, **environment}, log="server.log")


def patient_client(api_url: str) -> httpx.Client:
    """A client for a server that may have just started on a busy machine."""
    return httpx.Client(base_url=api_url, trust_env=False, timeout=_ANSWER_SECONDS)


def wait_for_server(server: Child, api: httpx.Client) -> None:
    """Wait until the server says that it is healthy."""

    def healthy() -> bool | None:
        with contextlib.suppress(httpx.TransportError):
            return True if api.get("/health").status_code == 200 else None
        return None

    wait_for(server, healthy, what="healthy", seconds=_START_SECONDS)


def start_worker(home: Path, environment: Mapping[str, str], name: str) -> Child:
    """Start a worker for the pool, which must exist: a worker would make one from the default."""
    command = ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"]
    log = f"worker-{name}.log"
    return start_module(WORKER, [*command, "--name", name], home, environment, log=log)


def _create_work_pool(api: httpx.Client) -> None:
    """Create the process pool whose jobs get no environment, command or directory from a run."""
    template: dict[str, Any] = json.loads((PROJECT / "deploy" / "work_pool.json").read_text())
    body = {"name": WORK_POOL, "type": "process", "base_job_template": template}
    api.post("/work_pools/", json=body).raise_for_status()
    # A burst of runs waits in the queue. Not by the worker's --limit: a run that is resumed before
    # its process has ended kills the worker then ("this borrower is already holding one of this
    # CapacityLimiter's tokens").
    limit = {"concurrency_limit": AT_ONCE}
    api.patch(f"/work_pools/{WORK_POOL}/queues/default", json=limit).raise_for_status()


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

            def online() -> bool | None:
                found = api.post(f"/work_pools/{WORK_POOL}/workers/filter", json={})
                known = found.json() if found.status_code == 200 else []
                return (name, "ONLINE") in {(one["name"], one["status"]) for one in known} or None

            wait_for(worker, online, what="online", seconds=_START_SECONDS)
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
            environment = {**client_environment(home, port), **(extra_environment or {})}
            children.append(start_sandbox(home, environment, sandbox_arguments))
            if database is not None:
                own = postgres.start(database, environment)
                children.append(own.child)
                database_url = own.url()
            watch.lap("database")
            children.append(start_server(home, port, environment, str(database_url)))
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
    address_file = home / "sandbox.json"
    address_file.touch(mode=0o600)
    address_file.write_text(address.model_dump_json())
    command = ["cli.local._register_blocks", str(address_file)]
    blocks = start_module("blocks", command, home, environment, log="blocks.log")
    children.append(blocks)
    api_url = environment["PREFECT_API_URL"]
    with patient_client(api_url) as api:
        wait_for_server(server, api)
        watch.lap("server")
        _create_work_pool(api)
    stack = LocalStack(home, api_url, environment, address, watch.seconds, children)
    # Blocks, deployments and worker start at the same time: most of it is Prefect's import.
    deploying = {**environment, PROJECT_VARIABLE: address.project_id}
    command = ["cli.deploy", str(prefect_file)]
    deploy = start_module("deployments", command, home, deploying, log="deploy.log")
    children.append(deploy)
    stack.start_worker()
    watch.lap("worker")
    for job in (blocks, deploy):
        processes.wait_for_exit(job, seconds=_START_SECONDS)
        children.remove(job)
        watch.lap(job.name)
    return stack


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now
