"""A clock that only a test moves, a seeded source of random bytes, and a cache of slow results."""

from __future__ import annotations

import marshal
import os
import random
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec, TypeVar
from unittest.mock import patch

import rfc8785
import time_machine

import cmek.signatures.verification
from cmek.signatures.signers import Signers
from cmek.signatures.statement import SignedApproval
from tests.support import signing

START: Final = datetime(2026, 12, 1, tzinfo=UTC)
"""The time at which every schedule starts."""
_OURS: Final = ("sandbox-", "asyncio_")
"""The sandbox's threads and those of `asyncio.to_thread`: they outlive a schedule."""

_KEPT: Final = 20_000
"""Cached results of one function: enough for what schedules have in common."""
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def computed_once() -> Iterator[None]:
    """Canonical JSON, signatures and their verification are computed once for the same content.

    Schedules repeat each other, so almost all their time was spent there. All three depend on this
    content only. How ssh-keygen is called is shown by the tests of signatures.
    """
    verify = cmek.signatures.verification._verify
    with (
        patch("rfc8785.dumps", _once(rfc8785.dumps, _content)),
        patch.object(signing, "sign", _once(signing.sign, lambda *given: given)),
        patch.object(cmek.signatures.verification, "_verify", _once(verify, _signed)),
    ):
        yield


def _once(call: Callable[P, R], key: Callable[P, Hashable]) -> Callable[P, R]:
    """`call` with a cache: for the same key it returns, or raises, what it did the first time."""
    results: dict[Hashable, tuple[R | None, Exception | None]] = {}

    def recall(*arguments: P.args, **options: P.kwargs) -> R:
        name = key(*arguments, **options)
        if name not in results:
            if len(results) == _KEPT:
                results.clear()
            try:
                results[name] = call(*arguments, **options), None
            except Exception as error:  # noqa: BLE001 - it is raised below
                results[name] = None, error
        result, problem = results[name]
        if problem is not None:
            raise problem.with_traceback(None)
        return result  # type: ignore[return-value]

    return recall


def _content(value: Any) -> Hashable:
    """Bytes that differ where the JSON differs, even for `1`, `1.0` and `True`."""
    return marshal.dumps(value, 2)  # later versions also encode which objects are shared


def _signed(approval: SignedApproval, signers: Signers, at: datetime) -> Hashable:
    given = approval.statement.text, approval.signature, at
    return *given, signers.allowed_lines, signers.revoked_content, signers.touch


@contextmanager
def deterministic() -> Iterator[time_machine.Traveller]:
    """Freeze the wall clock at `START` and seed all ids and tokens; yields the clock to move.

    `uuid` and `secrets` take their bytes from the two names replaced here. Threads that earlier
    tests left, such as those that send Prefect's logs and events, keep real bytes: they would use
    seeded ones at unpredictable moments. `time.monotonic()` goes on, because asyncio needs it.
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
