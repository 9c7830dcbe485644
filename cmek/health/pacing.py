"""Pacing of reads: so many a minute in each project and region, which is how Google counts them.

Source: https://docs.cloud.google.com/kms/quotas (read requests, 600 a minute by default)
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Final

BURST_SECONDS: Final = 1.0
"""How much of the quota may be used at once."""


class Pacer:
    """Hands out turns at a steady pace; one for each event loop."""

    def __init__(self, reads_per_minute: int) -> None:
        self._interval = 60.0 / reads_per_minute
        self._next: dict[str, float] = defaultdict(float)

    async def turn(self, where: str) -> None:
        """Wait for a turn in `where` (a location's name)."""
        now = asyncio.get_running_loop().time()
        at = max(self._next[where], now - BURST_SECONDS)
        self._next[where] = at + self._interval
        if at > now:
            await asyncio.sleep(at - now)

    def hold(self, where: str, seconds: float) -> None:
        """Give no turn in `where` for some seconds: the service asked for it."""
        now = asyncio.get_running_loop().time()
        self._next[where] = max(self._next[where], now + seconds)
