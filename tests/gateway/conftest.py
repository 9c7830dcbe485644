"""A sandbox with a working key, and two approvers, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from tests.support.gateway import Gateways, gateways


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Retries keep their number and lose their waits."""
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gateways]:
    with gateways(tmp_path) as gate:
        yield gate
