"""Fault scripts: one fault at one call, once or for as long as the run tries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from sandbox.world import Fault, World
from tests.support.crashes import answer, begin, check_end, check_told, converge, crash_points
from tests.support.driver import Driver
from tests.support.sandbox import breaks_connection
from tests.support.waiting import wait_until

MOST_CALLS: Final = 60
"""Limit for the calls of one name in one execution, with any fault: 4 attempts a read, and a
bounded number of reads and typed retries of a task."""

HTTP: Final[list[dict[str, Any]]] = [
    *({"status": status} for status in (408, 409, 429, 500, 502, 503, 529)),
    {"status": 429, "headers": {"retry-after": "1"}},
    {"kind": "reset"},
    {"kind": "truncate"},
    {"kind": "html", "status": 502},
    {"kind": "html", "status": 200},
]
ADMIN: Final[list[dict[str, Any]]] = [
    {"status": 400, "error_code": "external_key_validation_timed_out"},
    {"status": 409, "error_code": "external_key_changed"},
]
GRPC: Final[list[dict[str, Any]]] = [
    {"status": status}
    for status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL")
]
LONG: Final = 1000
_MOST_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Script:
    """One fault, and the calls that it hits."""

    call: str
    fault: tuple[tuple[str, Any], ...]
    when: str
    lasting: bool
    creates: bool = False
    resource: str = "*"

    def injected(self, **bounds: int) -> Fault:
        """The sandbox's fault; `bounds` may set `times` and `skip`."""
        fields: dict[str, Any] = {"times": LONG if self.lasting else 1} | bounds
        where = {"call": self.call, "resource": self.resource, "when": self.when}
        return Fault.model_validate(dict(self.fault) | where | fields)

    @property
    def is_untrue(self) -> bool:
        """Whether the service reports a refusal of a call that took effect."""
        return self.when == "after" and str(dict(self.fault).get("status")).startswith("4")

    def __str__(self) -> str:
        said = " ".join(f"{name}={value}" for name, value in self.fault)
        what = "creating: " if self.creates else ""
        where = f"{self.call} {self.resource}".removesuffix("*").rstrip()
        return f"{what}{where} {self.when} {said} {'for long' if self.lasting else 'once'}"


def all_scripts(driver: Driver, *, creates: bool = False) -> list[Script]:
    """Every fault at every call that an undisturbed onboarding makes."""
    points = crash_points(driver, creates=creates)
    services = {entry.call: entry.service for entry in driver.sandbox.world.log.entries}
    return [
        Script(call, tuple(fault.items()), when, lasting, creates)
        for call in dict.fromkeys(point.call for point in points)
        for fault in faults_of(services[call], call)
        for when in ("before", "after")
        for lasting in (False, True)
        if not _is_untrue(call, fault, when)
    ]


def _is_untrue(call: str, fault: dict[str, Any], when: str) -> bool:
    """Whether the fault is a 429 for an external key that was created nevertheless.

    A 429 means that nothing was done, so a create is repeated after it. No client can recognize a
    service that breaks this rule, so there is no such script.
    """
    return when == "after" and fault.get("status") == 429 and call == "external_keys.create"


def faults_of(service: str, call: str) -> list[dict[str, Any]]:
    """The faults that are possible at a call of this service."""
    if service == "kms":
        return GRPC
    heals = call in {"external_keys.validate", "workspaces.update", "workspaces.create"}
    return [*HTTP, *ADMIN] if heals else HTTP


def survive_faults(driver: Driver, script: Script) -> None:
    """Execute with the fault, then remove it and go on.

    Raises:
        AssertionError: too many calls, an error that is not ours, or a run that did not converge.
    """
    fault = script.injected()
    with driver.over_sockets(breaks_connection(fault)):
        _survive(driver, script, fault)


def _survive(driver: Driver, script: Script, fault: Fault) -> None:
    scene, run = begin(driver, creates=script.creates)
    world = scene.world
    world.faults.add(fault)
    for _ in range(2):
        done = len(world.log.entries)
        driver.execute(run)
        counts = Counter(entry.call for entry in world.log.entries[done:])
        assert counts[script.call] <= MOST_CALLS, f"{script}: {counts[script.call]} calls"
        check_told(scene, run, str(script), believes=script.is_untrue)
        if run.state != "Suspended":
            break
        answer(run)
    world.faults.clear()
    if run.state in {"Failed", "Crashed"}:
        run.retry()
    if run.state not in {"Attached", "Already attached"}:
        converge(driver, run)
    check_end(scene, run, str(script), believes=script.is_untrue)
    settle(world)


def settle(world: World) -> None:
    """Wait until delayed calls have ended: they must take effect before the next script's world.

    Raises:
        AssertionError: a call does not end.
    """
    entries = world.log.entries
    wait_until(lambda: all(one.status != "PENDING" for one in entries), "settled", _MOST_SECONDS)
