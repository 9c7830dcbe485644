"""A sandbox and a Prefect server for the blocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina

from tests.support.clients import Rig


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Retries keep their number and lose their waits."""
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The file's sandbox with an empty log and no faults."""
    shared_rig.control.clear_log()
    yield shared_rig
    shared_rig.control.clear_faults()
