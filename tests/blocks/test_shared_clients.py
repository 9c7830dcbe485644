"""The clients that tasks share: made once, however many ask at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tasks.clients import _shared, close_clients

pytestmark = pytest.mark.anyio
ASKING = 64


class Client:
    """A client that counts how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.refused: Exception | None = None

    async def aclose(self) -> None:
        """Count the call."""
        self.closed += 1
        if self.refused:
            raise self.refused


class Loading:
    """Loads a block: ends when the test allows it, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.refused: Exception | None = None
        self.made: list[Client] = []

    async def __call__(self) -> Client:
        """Make a client, once the test allows it."""
        self.begun += 1
        self.has_begun.set()
        await self.may_end.wait()
        if self.refused:
            raise self.refused
        self.made.append(Client())
        return self.made[-1]


@pytest.fixture
async def loading() -> AsyncIterator[Loading]:
    yield Loading()
    await close_clients()


def _ask(loading: Loading, block: str = "one") -> asyncio.Task[Client]:
    return asyncio.create_task(_shared(Client, block, loading))


async def test_many_that_ask_at_once_share_one(loading: Loading) -> None:
    asking = [_ask(loading) for _ in range(ASKING)]
    loading.may_end.set()
    assert len(set(await asyncio.gather(*asking))) == 1
    assert await _ask(loading) is loading.made[0]
    assert loading.begun == 1


async def test_each_block_has_its_own(loading: Loading) -> None:
    loading.may_end.set()
    assert await _ask(loading) is not await _ask(loading, "another")


async def test_all_that_wait_see_a_failure_and_the_next_one_tries_again(loading: Loading) -> None:
    loading.refused = OSError("the server is away")
    asking = [_ask(loading) for _ in range(ASKING)]
    loading.may_end.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert answers == [loading.refused] * ASKING
    loading.refused = None
    assert await _ask(loading) is loading.made[0]
    assert loading.begun == 2


async def test_one_that_stops_waiting_does_not_stop_the_others(loading: Loading) -> None:
    first, second = _ask(loading), _ask(loading)
    await loading.has_begun.wait()
    first.cancel()
    await asyncio.wait([first])
    loading.may_end.set()
    assert await second is loading.made[0]
    assert first.cancelled()


async def test_all_are_closed_once_at_the_end(loading: Loading) -> None:
    loading.may_end.set()
    await asyncio.gather(*(_ask(loading) for _ in range(ASKING)), _ask(loading, "another"))
    await close_clients()
    assert [client.closed for client in loading.made] == [1, 1]


async def test_one_that_can_not_be_closed_keeps_no_other_open(loading: Loading) -> None:
    loading.may_end.set()
    first = await _ask(loading)
    first.refused = OSError("the connection is gone")
    await _ask(loading, "another")
    await close_clients()
    assert [client.closed for client in loading.made] == [1, 1]


async def test_one_that_is_still_being_made_at_the_end_is_not_made(loading: Loading) -> None:
    asking = _ask(loading)
    await loading.has_begun.wait()
    await close_clients()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert not loading.made
