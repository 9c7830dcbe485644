"""Real processes, killed with SIGKILL around a call, against a real Prefect server.

The sandbox holds the call back, before or after its effect, until the process is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

from prefect.states import Scheduled

from cmek.anthropic_identity import ROLES
from cmek.report import artifact_key
from tests.support.onboarding import Onboardings, Run, onboardings
from tests.support.scene import Scene

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
_HELD: Final = 60.0
_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Kill:
    """Where the process is killed."""

    call: str
    skip: int
    when: str

    def __str__(self) -> str:
        return f"SIGKILL {self.when} {self.call} number {self.skip + 1}"


def all_kills() -> list[Kill]:
    """Around each of the calls."""
    return [Kill(call, skip, when) for call, skip in CALLS for when in ("before", "after")]


def try_all(chosen: str) -> tuple[int, list[str]]:
    """How many were tried, and what did not converge."""
    problems = []
    kills = [kill for kill in all_kills() if chosen in str(kill)]
    with onboardings() as bench:
        for kill in kills:
            try:
                _survive(bench, kill)
            except AssertionError as error:
                problems.append(f"{kill}: {error}")
            sys.stderr.write(f"{kill}\n")
    return len(kills), problems


def _survive(bench: Onboardings, kill: Kill) -> None:
    bench.control.reset()
    run = bench.start()
    fault: dict[str, Any] = {"kind": "error", "status": 503}
    if kill.when == "after":
        fault = {"kind": "delay"}
    bench.control.fault(kill.call, when=kill.when, skip=kill.skip, seconds=_HELD, **fault)
    if not _killed(bench, run, kill):
        run.answer()
        assert _killed(bench, run, kill), "the call was never made"
    bench.control.clear_faults()
    workspace = run.parameters["request"]["workspace_id"]
    bench.client.delete_global_concurrency_limit_by_name(artifact_key("workspace", workspace))
    assert run.state == "Running", run.state
    run.force(Scheduled(name="AwaitingRetry"))
    run.execute()
    if run.state == "Suspended":
        run.approve()
    _check(bench, run)


def _killed(bench: Onboardings, run: Run, kill: Kill) -> bool:
    """Execute in a child; whether it reached the call and was killed there."""
    environment = os.environ | {"PREFECT_API_URL": str(bench.client.api_url)}
    command = [sys.executable, "-m", "prove.execute_run", str(run.id)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        deadline = time.monotonic() + _SECONDS
        while child.poll() is None and time.monotonic() < deadline:
            calls = bench.control.log(call=kill.call)[kill.skip :]
            if calls and (kill.when == "before" or calls[0]["effect"]):
                child.send_signal(signal.SIGKILL)
                child.wait()
                return True
            time.sleep(0.05)
        child.kill()
    return False


def _check(bench: Onboardings, run: Run) -> None:
    assert run.state in {"Attached", "Already attached"}, f"{run.state}: {run.message}"
    world = bench.sandbox.world
    assert sum(one["effect"] for one in bench.attaches()) == 1
    assert len([name for name in world.kms.crypto_keys if name == _key(run)]) == 1
    scene = Scene(world)
    sight = scene.look()
    assert sight.roles == frozenset(ROLES)
    assert scene.external_keys() == [sight.attached]


def _key(run: Run) -> str:
    """The key that the run asks for."""
    request = run.parameters["request"]
    ring = f"projects/{request['project_id']}/locations/us-east5/keyRings/anthropic-cmek"
    return f"{ring}/cryptoKeys/{request['workspace_id']}"


if __name__ == "__main__":
    tried, found = try_all(" ".join(sys.argv[2:]))
    sys.stdout.write(json.dumps({"tried": tried, "problems": found}) + "\n")
