"""Wait until something is true, and fail when it does not become true."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cli.local.processes import poll

T = TypeVar("T")


def wait_until(probe: Callable[[], T | None], what: str, seconds: float = 60) -> T:
    """Call the probe until it returns something that is true; returns that.

    Raises:
        AssertionError: it did not within `seconds`.
    """
    found = poll(lambda: probe() or None, seconds=seconds)
    assert found is not None, f"not {what} after {seconds:g} s"
    return found
