"""The one layer that repeats a request whose transport failed.

At most 4 attempts, none started later than 60 s after the first, exponential backoff with
jitter, `Retry-After` honoured. Conditions that need a fresh look at the world (a failed
validation, a concurrent policy change) are not transport errors and are not repeated here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

_log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS: Final = 4
BUDGET_SECONDS: Final = 60.0
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 8.0

Verdict = bool | float
"""What to do after an error: give up, wait as usual, or wait the seconds that the server asked."""


async def retrying(
    send: Callable[[], Awaitable[T]],
    judge: Callable[[Exception], Verdict],
    *,
    attempts: int = ATTEMPTS,
) -> T:
    """Call `send` until it answers, `judge` gives up, or attempts or time run out.

    A server that asks for more seconds than are left ends it at once.

    Raises:
        Exception: whatever the last `send` raised.
    """
    deadline = time.monotonic() + BUDGET_SECONDS

    def decide(error: Exception) -> Verdict:
        verdict = judge(error)
        if isinstance(verdict, bool):
            return verdict
        if verdict > deadline - time.monotonic():
            return False
        return verdict + random.uniform(0, 0.5)  # noqa: S311 - jitter, not a secret

    async for attempt in stamina.retry_context(
        on=decide,
        attempts=attempts,
        timeout=BUDGET_SECONDS - _LONGEST_WAIT,
        wait_initial=_FIRST_WAIT,
        wait_max=_LONGEST_WAIT,
        wait_jitter=_FIRST_WAIT,
    ):
        with attempt:
            return await send()
    raise AssertionError("stamina ends with an answer or an error")


def _tell(details: RetryDetails) -> None:
    _log.warning(
        "attempt %d failed, next in %.1f s: %s",
        details.retry_num,
        details.wait_for,
        details.caused_by,
    )


set_on_retry_hooks([_tell])  # instead of stamina's own line, which says nothing of the cause
