"""A clock that only a test moves, and one seeded source of random bytes."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final
from unittest.mock import patch

import time_machine

START: Final = datetime(2026, 12, 1, tzinfo=UTC)
"""What every schedule's clock shows at first."""
_OURS: Final = ("sandbox-", "asyncio_")
"""The sandbox's threads and those of `asyncio.to_thread`: they outlive a schedule."""


@contextmanager
def deterministic() -> Iterator[time_machine.Traveller]:
    """Freeze the wall clock at `START` and seed all ids and tokens; the clock, to be moved.

    `uuid` and `secrets` take their bytes from the two names replaced here. Threads that earlier
    tests left, such as those that send Prefect's logs and events, keep real bytes: they would take
    some of the seeded ones at any moment. `time.monotonic()` goes on, because asyncio needs it.
    """
    source = random.Random(0)  # noqa: S311 - the ids of a test
    real = os.urandom
    foreign = {one for one in threading.enumerate() if not one.name.startswith(_OURS)}
    foreign.discard(threading.current_thread())

    def urandom(size: int) -> bytes:
        return real(size) if threading.current_thread() in foreign else source.randbytes(size)

    with (
        patch("os.urandom", urandom),
        patch("random._urandom", urandom),
        time_machine.travel(START, tick=False) as clock,
    ):
        yield clock
