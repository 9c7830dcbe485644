"""`python -m benchmarks.burst`: onboard many workspaces at once, each exactly once.

Two discoveries start at the same moment and see all workspaces, so that each is found twice. Then
every waiting run is approved. For comparison, Prefect alone executes as many empty runs. Exits with
1 when a run failed, a workspace has two runs, one has no key at the end, or a wanted number of
seconds is missed; the seconds are for a quiet machine with two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun

from benchmarks.alone import prefect_alone
from cli.client import every
from cmek.outcomes import RunOutcome
from cmek.tags import workspace_tag
from tasks.runs import ONBOARDING
from tests.support.stack import Stack, running_stack

DISCOVERY = "discover-workspaces/scheduled"
ALL_WAIT: Final = "all wait"
ALL_ATTACHED: Final = "all are attached"
"""Measured from the first approval."""
WANTED_OF_100: Final = {ALL_WAIT: 180.0, ALL_ATTACHED: 180.0}
"""Seconds for a hundred workspaces."""
SECONDS_A_RUN = 30.0
"""The timeout grows by this with each run: a process start and its work, on two busy cores."""
_POLL_SECONDS = 2.0
_LOST = ("503 Service Unavailable",)


@dataclass
class Outcome:
    """How long the steps took, and what went wrong."""

    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def took(self, what: str, started: float) -> None:
        """Store how long it took, and print it at once, since the next step may take minutes."""
        self.seconds[what] = time.monotonic() - started
        sys.stderr.write(f"{what} after {self.seconds[what]:.0f} s\n")


def burst(stack: Stack, count: int) -> Outcome:
    """Let the workspaces appear, approve all runs, and check the end."""
    outcome = Outcome()
    workspaces = [stack.new_workspace(f"burst-{n}", cmek="onboard") for n in range(count)]
    patience = 60 + SECONDS_A_RUN * count
    started = time.monotonic()
    _discover_twice(stack, count)
    waiting = _until(lambda: _settled(stack, workspaces, "Suspended"), count, patience)
    outcome.took(ALL_WAIT, started)
    outcome.problems += _not_once(workspaces, waiting)
    started = time.monotonic()
    for run in waiting:
        if run.state_name == "Suspended":
            stack.answer(stack.wait_for_pending(run))
    outcome.took("all are answered", started)
    ended = _until(lambda: _settled(stack, workspaces, RunOutcome.ATTACHED), count, patience)
    outcome.took(ALL_ATTACHED, started)
    outcome.problems += [
        f"run {run.name} ended as {run.state_name}: {run.state.message if run.state else ''}"
        for run in ended
        if run.state_name != RunOutcome.ATTACHED
    ]
    outcome.problems += [f"{one} has no key" for one in workspaces if not stack.is_attached(one)]
    return outcome


def _discover_twice(stack: Stack, count: int) -> None:
    deployment = stack.client.read_deployment_by_name(DISCOVERY)
    request = {"project_id": stack.local.sandbox.project_id, "max_new_runs": min(1000, count)}
    for _ in range(2):
        stack.client.create_flow_run_from_deployment(deployment.id, parameters={"request": request})


def _until(settled: Callable[[], list[FlowRun]], count: int, seconds: float) -> list[FlowRun]:
    """The settled runs, once there are `count` of them or `seconds` are over."""
    deadline = time.monotonic() + seconds
    while len(found := settled()) < count and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return found


def _settled(stack: Stack, workspaces: list[str], name: str) -> list[FlowRun]:
    """The workspaces' runs that are in the state of this name, or have ended."""
    ours = {workspace_tag(one) for one in workspaces}
    onboard = stack.client.read_deployment_by_name(ONBOARDING)
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[onboard.id]))
    return [
        run
        for run in every(stack.client.read_flow_runs, flow_run_filter=wanted)
        if ours & set(run.tags)
        and run.state is not None
        and (run.state.name == name or run.state.is_final())
    ]


def _not_once(workspaces: list[str], found: list[FlowRun]) -> list[str]:
    """Workspaces with no run, or more than one."""
    tags = Counter(tag for run in found for tag in run.tags)
    return [
        f"{one} has {tags[workspace_tag(one)]} runs that wait or ended"
        for one in workspaces
        if tags[workspace_tag(one)] != 1
    ]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspaces", type=int, default=100)
    options = parser.parse_args()
    with running_stack() as stack:
        outcome = burst(stack, options.workspaces)
        logs = "".join(stack.log_text(name) for name in stack.local.logs)
    floors = _prefect_alone(options.workspaces)
    missed = False
    for what, floor in floors.items():
        took, wanted = outcome.seconds[what], WANTED_OF_100[what] * options.workspaces / 100
        missed |= took > wanted
        sys.stdout.write(
            f"{options.workspaces} workspaces at once: {what} after {took:.0f} s, Prefect alone "
            f"{floor:.0f} s, ratio {took / floor:.2f}; wanted {wanted:g} s"
            f"{'  MISSED' if took > wanted else ''}\n"
        )
    busy = ", ".join(f"{logs.count(text)} times {text!r}" for text in _LOST)
    sys.stdout.write(f"in the logs {busy}; {len(outcome.problems)} problems\n")
    sys.stdout.writelines(f"  {problem}\n" for problem in outcome.problems)
    return int(missed or bool(outcome.problems))


def _prefect_alone(runs: int) -> dict[str, float]:
    """Seconds until as many empty runs wait, and seconds from their resumption to their end."""
    patience = 60 + SECONDS_A_RUN * runs
    with prefect_alone() as alone:
        started = time.monotonic()
        alone.start(runs)
        alone.wait_for("Suspended", runs, patience)
        waited = time.monotonic() - started
        started = time.monotonic()
        alone.resume_all()
        alone.wait_for("Completed", runs, patience)
        return {ALL_WAIT: waited, ALL_ATTACHED: time.monotonic() - started}


if __name__ == "__main__":
    sys.exit(main())
