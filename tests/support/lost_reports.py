"""Prefect's server refuses an artifact of an onboarding: the run must say what had happened.

The artifacts are all those that approved, rejected and repeated approval requests publish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from sandbox.world import Fault
from tests.support.crashes import answer, begin, check_end, check_told, converge, never
from tests.support.driver import Driver, Hook
from tests.support.fault_scripts import LONG
from tests.support.runs import DrivenRun
from tests.support.scene import Scene

Respond = Callable[[DrivenRun], None]


def reject(run: DrivenRun) -> None:
    """A rejection of the run's approval request."""
    answer(run)
    for response in run.answers.values():
        response["decision"] = "reject"


def approve_own(run: DrivenRun) -> None:
    """An approval by the requester."""
    answer(run)
    for response in run.answers.values():
        response["approver"] = run.parameters.requested_by


ENDS: Final[dict[str, tuple[Respond, str]]] = {
    "approved": (answer, "is attached to"),
    "rejected": (reject, "nothing was attached after approval request 1"),
    "asked again": (approve_own, "nothing was attached, and approval request 2 was not made"),
}
"""A kind of response, how to give it, and what the run's message must say if a report is lost."""


@dataclass(frozen=True, slots=True)
class LostReport:
    """The nth artifact after the response is refused, or all from the nth on.

    `number` 0 means the reads with which the report of an attach begins.
    """

    end: str
    number: int
    lasting: bool
    creates: bool = False

    def __str__(self) -> str:
        if not self.number:
            return f"{'creating, ' if self.creates else ''}{self.end}, not read back"
        which = f"report {self.number}{' and all later' if self.lasting else ''}"
        return f"{'creating, ' if self.creates else ''}{self.end}, {which} lost"

    def __call__(self, number: int) -> bool:
        """Whether this artifact is refused."""
        return number >= self.number if self.lasting else number == self.number


def lost_reports(driver: Driver) -> Iterator[LostReport]:
    """Each artifact that is published after a response, for each kind of response."""
    for end, (respond, _) in ENDS.items():
        for creates in (False, True):
            _, run = begin(driver, creates=creates)
            driver.execute(run)
            respond(run)
            driver.execute(run)
            assert driver.reports, f"{end}: {run.state} {run.message}"
            for number in range(1, len(driver.reports) + 1):
                for lasting in (False, True):
                    yield LostReport(end, number, lasting, creates)
            if end == "approved":
                yield LostReport(end, 0, lasting=False, creates=creates)


def _reads_fail(scene: Scene) -> Hook:
    """A hook: as soon as an attach was sent, no workspace can be read."""

    def hook(number: int, when: str) -> None:
        if scene.attaches(scene.world.log.entries) and not scene.world.faults.script:
            scene.world.faults.add(Fault(call="workspaces.retrieve", times=LONG))

    return hook


def survive_lost_report(driver: Driver, lost: LostReport) -> None:
    """Refuse the artifact, check the run's message, and go on.

    Raises:
        AssertionError: the run hides what had happened, or does not converge.
    """
    respond, said = ENDS[lost.end]
    scene, run = begin(driver, creates=lost.creates)
    driver.execute(run)
    respond(run)
    driver.report_lost = lost
    try:
        driver.execute(run, _reads_fail(scene) if not lost.number else never)
    finally:
        driver.report_lost = lambda number: False
        scene.world.faults.clear()
    assert said in run.message, f"{lost}: {run.state} {run.message}"
    check_told(scene, run, str(lost))
    if run.state not in {"Attached", "Already attached"}:
        run.retry()
        converge(driver, run)
    check_end(scene, run, str(lost))
