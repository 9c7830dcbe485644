"""Fixtures of the short proofs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina

from tests.support.driver import Driver, driving
from tests.support.sweeps import Sweeps, sweeping


@pytest.fixture(scope="module", autouse=True)
def _repeats_do_not_wait() -> Iterator[None]:
    with stamina.set_testing(True, attempts=4):
        yield


@pytest.fixture(scope="module")
def driver(_repeats_do_not_wait: None) -> Iterator[Driver]:
    """A sandbox, and runs that need no server."""
    with driving() as driver:
        yield driver


@pytest.fixture(scope="module")
def sweeps(_repeats_do_not_wait: None) -> Iterator[Sweeps]:
    """A sandbox, and revalidations that need no server."""
    with sweeping() as sweeps:
        yield sweeps
