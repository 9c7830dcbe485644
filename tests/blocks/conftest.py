"""A sandbox and a Prefect server for the blocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.clients import Rig, no_waiting

__all__ = ["no_waiting"]


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The file's sandbox with an empty log and no faults."""
    shared_rig.control.clear_log()
    yield shared_rig
    shared_rig.control.clear_faults()
