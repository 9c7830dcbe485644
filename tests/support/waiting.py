"""Wait for what comes by itself, and fail when it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cli.local.processes import poll

T = TypeVar("T")


def wait_until(probe: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """What the probe finds, once it finds something.

    Raises:
        AssertionError: Nothing in all these seconds.
    """
    found = poll(lambda: probe() or None, seconds=seconds)
    assert found is not None, f"not {what} after {seconds:g} s"
    return found
