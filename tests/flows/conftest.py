"""One sandbox for each file, with a new state for each test.

A test with `bench` is executed with Prefect in memory. `make prove` executes it on a server too,
which shows any difference: one case of each test, and each case of the attacks. A test marked
`server` is about what Prefect stores or decides, so it has a server only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeGuard
from unittest.mock import patch

import httpx
import pytest
import stamina

import flows._attach
import tasks.attachment
from cli.client import every
from tests.proofs.table import ATTACKS
from tests.support.kept import forget_made_keys
from tests.support.onboarding import Onboardings, onboardings
from tests.support.prefect_memory import memory_prefect
from tests.support.prefect_state import MemoryPrefect
from tests.support.sandbox import breaks_connection, handed_over

ROOT: Final = Path(__file__).parents[2]
_PLENTY: Final = 100
"""More attempts than the code makes, so that its own limit applies."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Execute the tests of this folder with Prefect in memory, on a server, or both."""
    if "_bench" not in metafunc.fixturenames:
        return
    only_server = metafunc.definition.get_closest_marker("server") is not None
    both = ("memory", pytest.param("server", marks=pytest.mark.prove))
    where = ("server",) if only_server else both
    metafunc.parametrize("_bench", where, indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one case on a server of each test that is executed in memory too."""
    seen: set[tuple[Path, str]] = set()
    more: list[pytest.Item] = []
    for item in items:
        if _is_on_both(item) and str(item.path.relative_to(ROOT)) not in ATTACKS:
            test = item.path, item.originalname
            if test in seen:
                more.append(item)
            seen.add(test)
    items[:] = [item for item in items if item not in more]
    config.hook.pytest_deselected(items=more)


def _is_on_both(item: pytest.Item) -> TypeGuard[pytest.Function]:
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    on_server = item.callspec.params.get("_bench") == "server"
    return on_server and item.get_closest_marker("server") is None


@pytest.fixture(scope="session")
def _in_memory(quick_prefect: None) -> Iterator[tuple[MemoryPrefect, Onboardings]]:
    """One bench in memory for all files: saving the blocks takes longer than most tests."""
    api = MemoryPrefect()
    with ExitStack() as stack:
        with memory_prefect(api):
            made = stack.enter_context(onboardings())
        yield api, made


@pytest.fixture(scope="module")
def _bench(request: pytest.FixtureRequest) -> Iterator[Onboardings]:
    if request.param == "memory":
        api, bench = request.getfixturevalue("_in_memory")
        sandbox = bench.sandbox

        def needs_no_connection(url: httpx.URL) -> bool:
            return str(url).startswith(sandbox.http) and not any(
                map(breaks_connection, sandbox.world.faults.script)
            )

        with memory_prefect(api), handed_over(sandbox, needs_no_connection), _without_waits():
            yield bench
    else:
        request.getfixturevalue("prefect_server")
        with onboardings() as bench:
            yield bench


@contextmanager
def _without_waits() -> Iterator[None]:
    """As many attempts and reads as usual, without waits; on a server they wait."""
    looks = (0.0,) * len(tasks.attachment.SEARCH_AFTER_SECONDS)
    with (
        stamina.set_testing(True, attempts=_PLENTY, cap=True),
        patch.object(flows._attach, "ATTACH_PAUSE_SECONDS", 0.0),
        patch.object(tasks.attachment, "SEARCH_AFTER_SECONDS", looks),
    ):
        yield


@pytest.fixture
def bench(_bench: Onboardings) -> Onboardings:
    """Reset server, sandbox and records: no run claims a workspace, no artifact is left."""
    _bench.control.reset()
    forget_made_keys()
    _bench.forget_runs()
    for artifact in tuple(every(_bench.client.read_artifacts)):
        _bench.client.delete_artifact(artifact.id)
    return _bench
