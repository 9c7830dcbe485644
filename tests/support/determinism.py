"""A clock that only a test moves, and one seeded source of random bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final
from unittest.mock import patch

import time_machine

START: Final = datetime(2026, 12, 1, tzinfo=UTC)
"""What every schedule's clock shows at first."""


@contextmanager
def deterministic() -> Iterator[time_machine.Traveller]:
    """Freeze the wall clock at `START` and seed all ids and tokens; the clock, to be moved.

    `uuid` and `secrets` take their bytes from the two names replaced here, in this process's
    threads too. `time.monotonic()` goes on, because asyncio needs it.
    """
    source = random.Random(0)  # noqa: S311 - the ids of a test
    with (
        patch("os.urandom", source.randbytes),
        patch("random._urandom", source.randbytes),
        time_machine.travel(START, tick=False) as clock,
    ):
        yield clock
