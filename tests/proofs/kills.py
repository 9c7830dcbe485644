"""Real processes, killed with SIGKILL before or after a call, with a real Prefect server.

The sandbox holds the call, before or after its effect, until the process was killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from cmek.tags import CREATE_SENT_PREFIX
from tests.proofs.site import Site, ended, try_all
from tests.support.fleet import Fleet
from tests.support.onboarding import Run
from tests.support.revalidation import Revalidations
from tests.support.scene import NEW

CALLS: Final = (
    ("organization.me", 0),
    ("CreateKeyRing", 0),
    ("CreateCryptoKey", 0),
    ("SetIamPolicy", 0),
    ("external_keys.create", 0),
    ("external_keys.validate", 0),
    ("external_keys.validate", 1),
    ("workspaces.update", 0),
    ("workspaces.update", 1),
    ("UpdateCryptoKey", 0),
)
"""Name, and how many calls of that name pass first: each write, each validation, one read."""
KEYS: Final = 6
"""The number of keys in a revalidation, which is killed at its fourth validation."""
_HELD: Final = 20.0
_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Kill:
    """Where the process is killed."""

    call: str
    skip: int
    when: str

    def __str__(self) -> str:
        return f"SIGKILL {self.when} {self.call} number {self.skip + 1}"


def cases() -> Iterator[tuple[str, Callable[[Site], None]]]:
    """The name and the test of each case."""
    for when in ("before", "after"):
        for call, skip in CALLS:
            kill = Kill(call, skip, when)
            yield str(kill), partial(_onboarding, kill=kill)
        create = Kill("workspaces.create", 0, when)
        yield str(create), partial(_creation, kill=create)
        validation = Kill("external_keys.validate", KEYS // 2, when)
        yield f"{validation}, revalidating", partial(_revalidation, kill=validation)


def _onboarding(place: Site, *, kill: Kill) -> None:
    run = place.begin()
    _kill_run(place, run, kill)
    place.converge(run)


def _creation(place: Site, *, kill: Kill) -> None:
    """While a create may still take effect, no other is sent; after that time another one is."""
    run = place.begin(workspace_id=None, create_workspace=NEW)
    _kill_run(place, run, kill)
    if kill.when == "before":
        place.free(run)
        run.force(Scheduled(name="AwaitingRetry"))
        place.execute(run)
        assert "it may still appear" in run.message, f"{run.state} {run.message}"
        assert len(place.bench.control.log(call=kill.call)) == 1
        _ten_minutes_pass(place, run)
    place.converge(run)


def _ten_minutes_pass(place: Site, run: Run) -> None:
    """Change the run's tag, so that its create was sent more than ten minutes ago."""
    then = datetime.now(UTC) - timedelta(minutes=11)
    tags = [tag for tag in run.read().tags if not tag.startswith(CREATE_SENT_PREFIX)]
    place.bench.client.update_flow_run(
        run.id, tags=[*tags, f"{CREATE_SENT_PREFIX}{then.isoformat()}"]
    )


def _revalidation(place: Site, *, kill: Kill) -> None:
    """A key with a record is not read again; each change has one event, each key its verdict."""
    place.bench.control.reset()
    fleet = Fleet(place.bench.sandbox.world)
    keys = [fleet.onboard(f"{kill.when}-{number}") for number in range(KEYS)]
    fleet.set_state(f"{kill.when}-0", 1, "DISABLED")
    daily = Revalidations.deployed(place.bench.client)
    run = daily.start(external_keys=keys, concurrency=1)
    _hold(place, kill)
    assert _killed(place, run, kill), "the call was never made"
    done = {key for key in keys if daily.pages(key)}
    assert 0 < len(done) < KEYS, done
    place.bench.control.clear_log()
    daily.client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
    place.execute(run)
    levels = {row.external_key_id: str(row.level) for row in daily.rows(run)}
    assert {key: levels.get(key) for key in keys} == dict.fromkeys(keys, "healthy") | {
        keys[0]: "broken"
    }, daily.client.read_flow_run(run.id).state
    again = {one["resource"] for one in place.bench.control.log(call=kill.call)}
    # the last key may have been published before the run stored its result
    assert len(done & again) <= 1, done & again
    assert daily.events(keys[0]) == ["cmek.key.broken"]
    assert place.bench.control.log(write=True) == []


def _kill_run(place: Site, run: Run, kill: Kill) -> None:
    _hold(place, kill)
    # not reached: the run is suspended before the call, which comes after the response
    if not _killed(place, run, kill):
        run.answer()
        assert _killed(place, run, kill), "the call was never made"
    assert run.state == "Running", run.state


def _hold(place: Site, kill: Kill) -> None:
    # a call held before its effect must fail in the end, else it would take effect after the kill
    fault: dict[str, Any] = {"kind": "error", "status": 503}
    if kill.when == "after":
        fault = {"kind": "delay"}
    place.bench.control.fault(kill.call, when=kill.when, skip=kill.skip, seconds=_HELD, **fault)


def _killed(place: Site, run: Run | FlowRun, kill: Kill) -> bool:
    """Execute the run in a child; returns whether it reached the call and was killed there."""
    control = place.bench.control
    with place.child(run) as child:
        deadline = time.monotonic() + _SECONDS
        while child.poll() is None and time.monotonic() < deadline:
            calls = control.log(call=kill.call)[kill.skip :]
            if calls and (kill.when == "before" or calls[0]["effect"]):
                child.kill()
                child.wait()
                control.clear_faults()
                return True
            time.sleep(0.05)
        ended(child)
    return False


if __name__ == "__main__":
    try_all(cases())
