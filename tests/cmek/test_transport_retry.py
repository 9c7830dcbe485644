"""The one retry layer, tested alone."""

from __future__ import annotations

import pytest
import stamina
from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks

from cmek._http import ATTEMPTS, BUDGET_SECONDS, RetryDecision, retrying

pytestmark = pytest.mark.anyio


class FlakyError(Exception):
    """The exception of the calls below."""


async def attempts_until(judge: object, failures: int) -> int:
    """The number of attempts at a call that fails `failures` times."""
    calls = 0

    async def send() -> int:
        nonlocal calls
        calls += 1
        if calls <= failures:
            raise FlakyError(calls)
        return calls

    try:
        return await retrying(send, judge)  # type: ignore[arg-type]
    except FlakyError:
        return calls


@pytest.mark.parametrize(
    ("failures", "calls"), [(0, 1), (1, 2), (3, 4), (4, ATTEMPTS), (99, ATTEMPTS)]
)
async def test_there_are_at_most_four_attempts(failures: int, calls: int) -> None:
    assert await attempts_until(lambda _: True, failures) == calls


@pytest.mark.parametrize(
    ("verdict", "calls"), [(False, 1), (BUDGET_SECONDS + 1, 1), (BUDGET_SECONDS - 1, 2), (0.0, 2)]
)
async def test_the_verdict_decides(verdict: RetryDecision, calls: int) -> None:
    """It stops the attempts, or waits the given time if that fits into the budget."""
    assert await attempts_until(lambda _: verdict, 1) == calls


async def test_the_last_error_is_raised() -> None:
    async def send() -> None:
        raise FlakyError(next(numbers))

    numbers = iter(range(1, 99))
    with pytest.raises(FlakyError, match="4"):
        await retrying(send, lambda _: True)


async def test_waits_differ() -> None:
    """Half a second and a jitter of at most the same: clients do not all retry at the same time."""
    waits: list[float] = []

    def stop(details: RetryDetails) -> None:
        waits.append(details.wait_for)
        raise EnoughError

    hooks = get_on_retry_hooks()
    set_on_retry_hooks([stop])
    try:
        for _ in range(3):
            with stamina.set_testing(False), pytest.raises(EnoughError):
                await attempts_until(lambda _: True, 99)
    finally:
        set_on_retry_hooks(hooks)
    assert len(set(waits)) == 3
    assert all(0.5 <= wait <= 1.0 for wait in waits)


class EnoughError(Exception):
    """Ends a test before it would wait."""
