"""Two replicas of Prefect's server with one PostgreSQL and one Redis, and a worker at each."""

from __future__ import annotations

import base64
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient

from cli.client import local_client
from cli.local.processes import start, stop
from cli.local.stack import LOOPBACK, start_worker, wait_for_server
from tests.support.examples import DOCS, run_example
from tests.support.postgres import cluster
from tests.support.requests import REQUESTER, approval_of
from tests.support.server import free_port
from tests.support.stack import Stack, running_stack

MISSING = [
    *([] if shutil.which("redis-server") else ["redis-server: apt-get install redis-server"]),
    *([] if importlib.util.find_spec("prefect_redis") else ["prefect-redis: pip install it"]),
]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.prove,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"needs what is not locked: {'; '.join(MISSING)}"),
]


@dataclass
class Replicas:
    """A stack, whose server runs the services too, and a second server with a worker of its own."""

    stack: Stack
    api_url: str
    client: SyncPrefectClient


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Start all of it on loopback."""
    home = tmp_path_factory.mktemp("replica")
    with running_redis(home) as port:
        shared = {
            **documented(port),
            "PREFECT_SERVER_ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        }
        with (
            running_stack(extra_environment=shared) as stack,
            second_server(home, stack) as api_url,
            local_client(api_url) as client,
        ):
            yield Replicas(stack, api_url, client)


def documented(port: int) -> dict[str, str]:
    """The variables that docs/operations.md names, for a Redis on loopback."""
    lines = re.findall(r"^(PREFECT_\w+)=(.*redis.*)$", (DOCS / "operations.md").read_text(), re.M)
    variables = {
        name: value.replace("redis.example:6379", f"{LOOPBACK}:{port}") for name, value in lines
    }
    assert len(variables) == 6
    return variables | {
        "PREFECT_REDIS_MESSAGING_HOST": LOOPBACK,
        "PREFECT_REDIS_MESSAGING_PORT": str(port),
    }


@contextmanager
def running_redis(home: Path) -> Iterator[int]:
    """Start a Redis; yields its port."""
    port = free_port()
    command = ["redis-server", "--bind", LOOPBACK, "--port", str(port), "--save", ""]
    child = start(
        "Redis",
        command,
        environment={"PATH": os.environ["PATH"]},
        directory=home,
        log=home / "redis.log",
    )
    try:
        yield port
    finally:
        stop([child])


@contextmanager
def second_server(home: Path, stack: Stack) -> Iterator[str]:
    """Start a replica without services, and a worker for it; yields the replica's API."""
    port = free_port()
    url = f"http://{LOOPBACK}:{port}/api"
    own = {
        **stack.local.environment,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": cluster().url(stack.database),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-services"]
    server = start("replica", command, environment=own, directory=home, log=home / "server.log")
    children = [server]
    try:
        with httpx.Client(base_url=url, trust_env=False) as api:
            wait_for_server(server, api)
        children.append(start_worker(home, own, "second"))
        yield url
    finally:
        stop(children)


def test_an_event_at_one_replica_and_an_answer_at_the_other_attach(replicas: Replicas) -> None:
    """The services, a worker and the person need not use the same server."""
    stack = replicas.stack
    workspace = stack.new_workspace("announced to the replica")
    variables = {
        "PREFECT_API_URL": replicas.api_url,
        "PROJECT": stack.local.sandbox.project_id,
        "REQUESTER": REQUESTER,
        "WORKSPACE": workspace,
    }
    sent = run_example("api.md", "An event", "bash", variables)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    (run,) = stack.runs_of(workspace)
    ask = stack.wait_for_pending(run)
    replicas.client.resume_flow_run(ask.run.id, run_input=approval_of(ask.approval_request))
    stack.wait_for_state(ask.run, "Attached")
    assert stack.is_attached(workspace)


def test_two_workers_at_two_replicas_never_work_on_one_workspace(replicas: Replicas) -> None:
    """Of runs that start at the same moment only one gets the slot and the claim."""
    stack = replicas.stack
    workspace = stack.new_workspace("wanted at both")
    started = [stack.start_onboarding(workspace) for _ in range(4)]
    ended = [stack.wait_for_state(run, "Suspended", "Duplicate", seconds=120) for run in started]
    states = [run.state_name for run in ended]
    assert sorted(map(str, states)) == ["Duplicate"] * 3 + ["Suspended"]
    ask = stack.wait_for_pending(ended[states.index("Suspended")].id)
    stack.answer(ask)
    stack.wait_for_state(ask.run, "Attached")
    sent = [
        one
        for one in stack.control.log(call="workspaces.update")
        if one["resource"].endswith(workspace) and "external_key_id" in one["request"]
    ]
    assert len(sent) == 1
