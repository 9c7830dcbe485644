"""Outages of the server, the records and the disk, and two processes that execute one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from cmek.outcomes import RunOutcome
from tests.proofs.site import Site, ended, try_all
from tests.support.onboarding import Run
from tests.support.waiting import wait_until

PHASES: Final = (
    ("organization.me", 0, "before"),
    ("CreateCryptoKey", 0, "after"),
    ("external_keys.create", 0, "after"),
    ("external_keys.validate", 1, "before"),
    ("workspaces.update", 0, "before"),
    ("workspaces.update", 0, "after"),
)
"""The calls at which the server is killed: name, how many calls pass first, and when."""
SIZES: Final = (0, 2_000, 6_000, 12_000, 20_000, 40_000)
"""Bytes that still fit on the disk."""
_PAUSE: Final = 4.0
_SECONDS: Final = 60.0


def cases() -> Iterator[tuple[str, Callable[[Site], None]]]:
    """The name and the test of each case."""
    for call, skip, when in PHASES:
        yield f"server killed {when} {call}", partial(_server_killed, call=(call, skip, when))
    yield "server killed while a run waits", _server_killed_while_waiting
    yield "records lost while a run waits", _records_lost
    for size in SIZES:
        full = partial(_disk_full, size=size)
        yield f"disk full at {size} bytes, preparing", partial(full, answered=False)
        yield f"disk full at {size} bytes, attaching", partial(full, answered=True)
    yield "two processes prepare one run", partial(_race, answered=False)
    yield "two processes go on with one run", partial(_race, answered=True)


def _server_killed(place: Site, *, call: tuple[str, int, str]) -> None:
    """The sandbox holds the call while the server restarts; in the end the run converges."""
    name, skip, when = call
    run = place.begin()
    answered = name == "workspaces.update" or skip > 0
    if answered:
        place.execute(run)
        assert run.state == "Suspended", f"{run.state} {run.message}"
        run.answer()
        place.bench.control.clear_log()
        skip = 0  # the calls to let pass were those of the first execution
    fault: dict[str, Any] = {"kind": "delay", "seconds": _PAUSE}
    place.bench.control.fault(name, when=when, skip=skip, **fault)
    with place.child(run) as child:
        _reach(place, name, child)
        place.server.kill()
        place.server.start()
        ended(child)
    place.converge(run)


def _reach(place: Site, call: str, child: Any) -> None:
    def reached() -> bool:
        made = bool(place.bench.control.log(call=call))
        assert made or child.poll() is None, f"the run ended before {call}"
        return made

    wait_until(reached, f"at {call}", _SECONDS)


def _server_killed_while_waiting(place: Site) -> None:
    run = _asked(place)
    place.server.kill()
    place.server.start()
    run.answer()
    place.execute(run)
    assert run.state == RunOutcome.ATTACHED, f"{run.state} {run.message}"
    place.converge(run)


def _records_lost(place: Site) -> None:
    """A response to a lost approval request is not valid; whose key it is, is not known either."""
    run = _asked(place, adopt_existing_key=True)
    shutil.rmtree(place.records)
    run.answer()
    place.execute(run)
    assert place.bench.attaches() == [], run.state
    place.converge(run)


def _disk_full(place: Site, *, size: int, answered: bool) -> None:
    """Whatever cannot be stored, nothing is attached twice or without an approval."""
    run = _asked(place) if answered else place.begin()
    if answered:
        run.answer()
    place.execute(run, str(size))
    place.converge(run)


def _race(place: Site, *, answered: bool) -> None:
    run = _asked(place) if answered else place.begin()
    if answered:
        run.answer()
    with place.child(run) as one, place.child(run) as other:
        ended(one)
        ended(other)
    place.converge(run)


def _asked(place: Site, **request: Any) -> Run:
    run = place.begin(**request)
    place.execute(run)
    assert run.state == "Suspended", f"{run.state} {run.message}"
    return run


if __name__ == "__main__":
    try_all(cases())
