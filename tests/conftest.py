"""What tests of several rooms share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from cli.local.stack import one_authority
from tests.support.clients import Rig
from tests.support.sandbox import running
from tests.support.server import lone_server
from tests.support.stack import Stack, running_stack

CANARIES = {
    "ANTHROPIC_ADMIN_KEY": "sk-ant-admin01-CANARY-NOT-A-REAL-KEY",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/canary.json",
    "PREFECT_SERVER_API_AUTH_STRING": "canary:canary",
    "PREFECT_API_KEY": "pnu_CANARY_NOT_A_REAL_KEY",  # pragma: allowlist secret
}
"""In the environment of whoever starts the shared stack; no part of it may see one."""


# how long an example takes says how busy the machine is
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# for prove.mutants: few examples, and the same ones for every mutant
settings.register_profile(
    "mutants", max_examples=40, derandomize=True, database=None, deadline=None
)

ON_THE_STACK = (
    "tests/cli/test_answering.py",
    "tests/cli/test_doctor.py::test_a_running_stack",
    "tests/cli/test_local_stack.py",
    "tests/cli/test_own_origin.py",
    "tests/cli/test_rehearse.py",
    "tests/e2e/test_triggers.py",
    "tests/flows/test_revalidate_stack.py",
)
"""Tests that share one stack, which takes long to start: so one process runs them all."""
ON_A_SERVER = (
    "tests/blocks/test_registration.py",
    "tests/cli/test_doctor.py",
    "tests/cli/test_refused_servers.py",
    "tests/cli/test_work_pools.py",
)
"""The same for a server alone."""
_IN_FLOWS = re.compile(r"[\[-]server[]-]")
"""Those on a server, by their parameter."""


def _scope(config: pytest.Config, nodeid: str) -> str:
    """Which tests run in the same process; with `-m prove` too many are on a server for one."""
    if nodeid.startswith(ON_THE_STACK):
        return "the stack"
    on_a_server = nodeid.startswith(ON_A_SERVER) or _IN_FLOWS.search(nodeid)
    if on_a_server and config.getoption("markexpr") == "not prove":
        return "a server"
    return nodeid.partition("::")[0]


class _Files(LoadFileScheduling):  # type: ignore[misc]
    """A process takes a file, or all tests that share what takes long to start."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(self.config, nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Files | None:
    """For `--dist loadfile` only."""
    return _Files(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest comes first: alone at the end it would idle a core."""
    slow = {item.path for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: (item.path not in slow, _scope(config, item.nodeid) != "a server"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def shared_rig() -> Iterator[Rig]:
    """One sandbox for the file; a test takes `rig` instead, which is emptied before it."""
    with running(minimal=True) as (sandbox, control):
        yield Rig(sandbox, control)


@pytest.fixture(scope="session", autouse=True)
def own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Records of runs that are executed in this process, apart from those of whoever tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack, shared by all tests that leave it as usable as they found it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CANARIES.items():
            patch.setenv(name, value)
        running = running_stack()
        started = running.__enter__()
    try:
        yield started
    finally:
        running.__exit__(None, None, None)


@pytest.fixture(scope="session")
def quick_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Settings of this process as a client of Prefect's, without what tests need not wait for.

    A flow's heartbeat thread takes a second to end, so it is off.
    """
    quick = {
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_API_SSL_CERT_FILE: str(one_authority(tmp_path_factory.mktemp("tls"))),
    }
    with temporary_settings(quick):
        yield


@pytest.fixture(scope="session")
def _server(quick_prefect: None) -> Iterator[None]:
    """One real server a test process: two would hide one another."""
    with lone_server():
        yield


@pytest.fixture(scope="module")
def prefect_server(_server: None) -> None:
    """That server with nothing on it that tests of another file have left."""
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
        for pool in client.read_work_pools():
            client.delete_work_pool(pool.name)
        for block in client.read_block_documents():
            client.delete_block_document(block.id)
