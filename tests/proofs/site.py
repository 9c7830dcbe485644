"""A Prefect server that can be killed and started again, and runs executed by child processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from cmek.anthropic_identity import ROLES
from cmek.names import artifact_key
from cmek.onboarding.request import subject_in
from cmek.outcomes import HAS_ITS_KEY
from tests.support.onboarding import Onboardings, Run, onboardings
from tests.support.scene import Scene
from tests.support.server import OwnServer, own_server

_SECONDS: Final = 120.0
_MOST_EXECUTIONS: Final = 8
_GOING_ON: Final = {
    "Running",
    "Pending",
    "Failed",
    "Crashed",
    "Retrying",
    "AwaitingConcurrencySlot",
}
"""States of a run that needs another execution; the process of a running one was killed."""


@dataclass
class Site:
    """Server, sandbox, and runs that child processes execute."""

    server: OwnServer
    bench: Onboardings

    @property
    def records(self) -> Path:
        """The folder of the runs' records."""
        return self.server.home / ".local" / "state" / "cmek" / "records"

    def begin(self, **request: Any) -> Run:
        """Reset the sandbox and start a run; earlier runs are deleted with their claims."""
        self.bench.control.reset()
        self.bench.forget_runs()
        return self.bench.start(**request)

    def child(self, run: Run | FlowRun, *arguments: str) -> subprocess.Popen[bytes]:
        """Start executing the run, as a worker does."""
        command = ("tests.proofs.execute_run", str(run.id), *arguments)
        return subprocess.Popen(
            [sys.executable, "-Wignore", "-m", "cli.launch", *command],
            env=self.server.environment,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def execute(self, run: Run | FlowRun, *arguments: str) -> None:
        """Execute until the child ends."""
        with self.child(run, *arguments) as child:
            ended(child)

    def free(self, run: Run) -> None:
        """Free the workspace's slot, which a killed process held; its lease would end later."""
        slot = artifact_key("workspace", subject_in(run.parameters["request"]))
        with suppress(ObjectNotFound):
            self.bench.client.delete_global_concurrency_limit_by_name(slot)

    def converge(self, run: Run) -> None:
        """Go on as people would: retry each failed run, approve each request.

        Raises:
            AssertionError: the run did not end, or not in the one end state.
        """
        for _ in range(_MOST_EXECUTIONS):
            state = run.state
            if state in HAS_ITS_KEY:
                return check_end(self.bench, run)
            if state == "Suspended":
                run.answer()
            elif state in _GOING_ON:
                self.free(run)
                run.force(Scheduled(name="AwaitingRetry"))
            self.execute(run)
        raise AssertionError(f"no end after {_MOST_EXECUTIONS} executions: {state} {run.message}")


def ended(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child; kill one that hangs.

    Raises:
        AssertionError: it hung.
    """
    try:
        child.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        raise AssertionError(f"an execution hangs for {_SECONDS:.0f} s") from None


def check_end(bench: Onboardings, run: Run) -> None:
    """One key with both grants, one external key, one attach that took effect.

    Raises:
        AssertionError: there is something else.
    """
    world = bench.sandbox.world
    scene = Scene(world, creates=bool(run.parameters["request"].get("new_workspace")))
    sight = scene.look()
    assert len(scene.workspaces()) == 1
    assert sum(one.effect for one in scene.attaches(world.log.entries)) == 1
    assert sight.roles == frozenset(ROLES)
    assert scene.external_keys() == [sight.attached]


@contextmanager
def site() -> Iterator[Site]:
    """Start server and sandbox; stop and remove them at the end."""
    with own_server() as server, onboardings() as bench:
        yield Site(server, bench)


def try_all(cases: Iterable[tuple[str, Callable[[Site], None]]]) -> None:
    """Try the cases; print how many there were and what did not converge, as JSON.

    The command's first argument is a seed, which is not needed here; the others, if any, are a text
    that must be in a case's name.
    """
    chosen = " ".join(sys.argv[2:])
    tried, problems = 0, []
    with site() as place:
        for name, attempt in cases:
            if chosen not in name:
                continue
            tried += 1
            end = "converged"
            try:
                attempt(place)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                end = f"{type(error).__name__}: {error}"
                problems.append(f"{name}: {end}")
            sys.stderr.write(f"{name}: {end}\n")
    sys.stdout.write(json.dumps({"tried": tried, "problems": problems}) + "\n")
