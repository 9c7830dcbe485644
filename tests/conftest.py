"""Fixtures of several packages, and which tests run in one process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from prefect.blocks.core import Block
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
"""Variables in the environment that starts the shared stack; no part of the stack may see one."""


# the time of an example depends on how busy the machine is
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
    "tests/e2e/test_browser.py",
    "tests/e2e/test_triggers.py",
    "tests/flows/test_revalidate_stack.py",
)
"""Tests that share one stack, which takes long to start: so one process runs them all."""
ON_A_SERVER = (
    "tests/blocks/test_registration.py",
    "tests/cli/test_doctor.py",
    "tests/cli/test_kept.py",
    "tests/cli/test_refused_servers.py",
    "tests/cli/test_work_pools.py",
)
"""The same for a server alone."""
_IN_FLOWS = re.compile(r"[\[-]server[]-]")
"""Tests on a server, recognized by their parameter."""


def _scope(config: pytest.Config, nodeid: str) -> str:
    """Tests of one scope run in one process; with `-m prove` too many use a server for that."""
    if nodeid.startswith(ON_THE_STACK):
        return "the stack"
    on_a_server = nodeid.startswith(ON_A_SERVER) or _IN_FLOWS.search(nodeid)
    if on_a_server and config.getoption("markexpr") == "not prove":
        return "a server"
    return nodeid.partition("::")[0]


class _Files(LoadFileScheduling):  # type: ignore[misc]
    """Gives a process one file, or all tests that share something that takes long to start."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(self.config, nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Files | None:
    """Use `_Files` for `--dist loadfile` only."""
    return _Files(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the slowest tests first: a slow one alone at the end would leave a core idle."""
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
    """Keep the records of runs in this process apart from those of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def blocks_saved_quickly() -> Iterator[None]:
    """Ask for the secret fields of a block once; Prefect generates its schema for each field."""
    asks = Block._field_has_secrets
    known: dict[tuple[type[Block], str], bool] = {}

    def has_secrets(block: Block, field: str) -> bool:
        which = (type(block), field)
        if which not in known:
            known[which] = asks(block, field)
        return known[which]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "_field_has_secrets", has_secrets)
        yield


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack, shared by all tests that leave it usable for the others."""
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
    """Settings of this process as a client of Prefect, without avoidable waiting.

    A flow's heartbeat thread takes a second to end, so it is off. To load all authorities of TLS
    for each client takes long, so there is only one.
    """
    quick = {
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_API_SSL_CERT_FILE: str(one_authority(tmp_path_factory.mktemp("tls"))),
    }
    with temporary_settings(quick):
        yield


@pytest.fixture(scope="session")
def _server(quick_prefect: None) -> Iterator[None]:
    """One real server for each test process: the settings can name only one."""
    with lone_server():
        yield


@pytest.fixture(scope="module")
def prefect_server(_server: None) -> None:
    """That server, without what tests of another file have left on it."""
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
        for pool in client.read_work_pools():
            client.delete_work_pool(pool.name)
        for block in client.read_block_documents():
            client.delete_block_document(block.id)
