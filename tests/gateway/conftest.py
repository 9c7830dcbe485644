"""A sandbox with a working key, and two approvers, for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import no_waiting
from tests.support.gateway import Gateways, gateways

__all__ = ["no_waiting"]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gateways]:
    with gateways(tmp_path) as gate:
        yield gate
