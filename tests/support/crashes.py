"""Crash points: the process is killed before or after any outside call; a retry still converges.

The points are the outside calls of an undisturbed run, so that a new call is covered without any
change here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, Literal

from cmek.anthropic_identity import ROLES
from sandbox.identities import PROJECT_ID
from tests.support.driver import Driver
from tests.support.requests import approval_of
from tests.support.runs import DrivenRun, Killed
from tests.support.scene import Scene

When = Literal["before", "after"]
WHEN: Final[tuple[When, ...]] = ("before", "after")
_ENOUGH = 6


@dataclass(frozen=True, slots=True)
class Point:
    """Where a run is killed: in its first or second execution, around its nth outside call."""

    execution: int
    number: int
    when: When
    call: str
    write: bool
    creates: bool = False

    def __str__(self) -> str:
        where = "preparing" if self.execution == 1 else "after the response"
        where = f"creating, {where}" if self.creates else where
        return f"{where}, {self.when} call {self.number} ({self.call})"


def never(number: int, when: str) -> None:
    """A hook that does nothing."""


def answer(run: DrivenRun) -> None:
    """An honest approval of the run's approval request."""
    approval_request = run.approval_request()
    assert approval_request is not None, run
    asked = run.parameters
    run.answers[approval_request.key] = approval_of(
        approval_request,
        workspace_id=asked.workspace_id,
        workspace_name=asked.create_workspace,
    )


def begin(driver: Driver, *, creates: bool) -> tuple[Scene, DrivenRun]:
    """A new world and a run in it, for an existing workspace or for a new one."""
    driver.runs.clear()
    scene = Scene(driver.sandbox.world, creates=creates)
    scene.new()
    wanted = scene.request | {"project_id": PROJECT_ID, "requested_by": "ada@example.com"}
    return scene, driver.start(**wanted)


def crash_points(driver: Driver, *, creates: bool = False) -> list[Point]:
    """Every point of an undisturbed onboarding."""
    scene, run = begin(driver, creates=creates)
    points: list[Point] = []
    for execution in (1, 2):
        done = len(scene.world.log.entries)
        if execution == 2:
            answer(run)
        driver.execute(run, never)
        for number, entry in enumerate(scene.world.log.entries[done:], start=1):
            points += [
                Point(execution, number, when, entry.call, entry.write, creates) for when in WHEN
            ]
    assert run.state == "Attached", run.message
    return points


def converge(driver: Driver, run: DrivenRun) -> DrivenRun:
    """Go on as people would: execute, approve each request, retry each failed run."""
    for _ in range(_ENOUGH):
        driver.execute(run, never)
        if run.state in {"Failed", "Crashed"}:
            run.retry()
        elif run.state == "Suspended":
            answer(run)
        else:
            return run
    raise AssertionError(f"no end after {_ENOUGH} executions: {run.state} {run.message}")


def survive(driver: Driver, point: Point) -> None:
    """Kill a run at this point, retry it once, approve at most once more, and check the end state.

    Raises:
        AssertionError: it did not converge; the message says why.
    """
    scene, run = begin(driver, creates=point.creates)

    def kill(number: int, when: str) -> None:
        if (number, when) == (point.number, point.when):
            raise Killed

    driver.execute(run, kill if point.execution == 1 else never)
    if point.execution == 2:
        answer(run)
        driver.execute(run, kill)
    assert run.state == "Crashed", f"{point}: {run.state} {run.message}"
    attached = scene.look().attached
    run.retry()
    driver.execute(run, never)
    assert run.state == ("Already attached" if attached else "Suspended"), f"{point}: {run.message}"
    if not attached:
        answer(run)
        driver.execute(run, never)
    check_end(scene, run, str(point))


def check_told(scene: Scene, run: DrivenRun, where: str, *, believes: bool = False) -> None:
    """Check how a run failed: with an error of ours that does not deny an effective attach.

    Args:
        scene: The world.
        run: The run, after its execution.
        where: Text for the message of an assertion.
        believes: Whether a service reported a refusal of a call that took effect.
    """
    run.check_error(where)
    denies = any(said in run.message for said in ("nothing was attached", "attached nothing"))
    if denies and not believes and "has this key already" not in run.message:
        assert scene.look().attached is None, f"{where}: {run.message}"


def check_end(scene: Scene, run: DrivenRun, where: str, *, believes: bool = False) -> None:
    """The one end state of invariant 5, and evidence that records the attach.

    A service that reports a refusal of an attach that took effect is believed: then the evidence
    can't say that the run attached the key, since somebody else may have done it.
    """
    world, sight = scene.world, scene.look()
    assert run.state in {"Attached", "Already attached"}, f"{where}: {run.state} {run.message}"
    assert len(scene.workspaces()) == 1, f"{where}: {scene.workspaces()}"
    ours = [name for name in world.kms.crypto_keys if name == scene.key]
    assert (len(world.kms.key_rings), len(ours)) == (1, 1), where
    assert sight.roles == frozenset(ROLES), where
    assert scene.external_keys() == [sight.attached], where
    requests = scene.attaches(world.log.entries)
    assert sum(one.effect for one in requests) == 1, where
    # a second request is allowed only after a read has shown that the first had no effect
    for before, again in itertools.pairwise(requests):
        between = world.log.entries[
            world.log.entries.index(before) : world.log.entries.index(again)
        ]
        looked = "workspaces.list" if scene.creates else "workspaces.retrieve"
        assert any(one.call == looked for one in between), where
    evidence = run.evidence()
    assert evidence is not None, where
    kinds = [entry.kind for entry in evidence.entries]
    recorded = kinds.count("attached")
    assert recorded == 1 or (believes and not recorded), f"{where}: the evidence has {kinds}"
