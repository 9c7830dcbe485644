"""A Prefect server and worker of our own, as child processes, and what is set up on the server."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from console.processes import Child, start, wait_for

WORKER: Final = "Prefect worker"
WORK_POOL: Final = "cmek"
AT_ONCE: Final = 8
"""Runs that execute at the same time: each takes a core and 200 MB. Those that wait don't count."""
LOOPBACK: Final = "127.0.0.1"

_START_SECONDS = 120.0
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
    wait_for(server, lambda: _healthy(api), what="healthy", seconds=_START_SECONDS)


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
    wait_for(worker, lambda: _worker_online(api, name), what="online", seconds=_START_SECONDS)


def create_work_pool(api: httpx.Client) -> None:
    """Create the process pool whose jobs get no environment, command or directory from a run.

    Raises:
        httpx.HTTPStatusError: the server refused.
    """
    template: dict[str, Any] = json.loads(Path(__file__).with_name("work_pool.json").read_text())
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
        [sys.executable, "-m", "console.deploying", str(prefect_file)],
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
