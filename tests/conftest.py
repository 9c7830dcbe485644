"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from tests.support import stack
from tests.support.postgres import running_cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start a whole stack come first: one of them alone at the end would idle a core."""
    slow = {item.path for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One real server with an empty database a test process: two would hide one another.

    A flow's heartbeat thread takes a second to end, so it is off.
    """
    with (
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        prefect_test_harness(server_startup_timeout=90),
    ):
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the stacks of `tests/support/stack.py` run on PostgreSQL."""
    parser.addoption("--postgres", action="store_true", help="Prefect servers on PostgreSQL")


@pytest.fixture(scope="session", autouse=True)
def database_of_stacks(request: pytest.FixtureRequest) -> Iterator[None]:
    """PostgreSQL when the session is asked for it, else each server's own SQLite."""
    if not request.config.getoption("postgres"):
        yield
        return
    with running_cluster() as cluster:
        stack.CLUSTER.append(cluster)
        yield
        stack.CLUSTER.clear()
