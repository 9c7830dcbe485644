"""`python -m benchmarks.start_up`: commands and the local stack, against Prefect alone.

A floor is what Prefect alone takes on this machine in the same run: its client's import; or a new
PostgreSQL, Prefect's server and then a worker, started as by hand; and then an empty flow that is
suspended once and resumed.
Exits with 1 when a wanted number is missed; the seconds are for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.alone import prefect_alone
from tests.support.server import lone_server

WANTED: Final = {"cmek --help": 0.4, "cmek status": 1.5, "cmek up": 12.0, "cmek rehearse": 20.0}
"""Seconds on two quiet cores."""
_CMEK: Final = str(Path(sys.executable).with_name("cmek"))


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    missed = False
    for what, seconds, floor in _measured(options.rounds):
        took, least = statistics.median(seconds), statistics.median(floor)
        good = took <= WANTED[what]
        missed |= not good
        sys.stdout.write(
            f"{what:<14} {took:>6.2f} s, Prefect alone {least:>6.2f} s, ratio {took / least:.2f}; "
            f"wanted {WANTED[what]:g} s{'' if good else '  MISSED'}\n"
        )
        sys.stdout.flush()
    return int(missed)


def _measured(rounds: int) -> Iterator[tuple[str, list[float], list[float]]]:
    """Each command's seconds, and those of its floor, in turns."""
    with lone_server() as address:
        known = os.environ | {"PREFECT_API_URL": address}
        for what, import_ in (
            ("cmek --help", "typer, rich.console"),
            ("cmek status", "prefect.client.orchestration"),
        ):
            command, floor = [_CMEK, what.split()[1]], [sys.executable, "-c", f"import {import_}"]
            pairs = [(_seconds(command, known), _seconds(floor, known)) for _ in range(rounds)]
            yield what, *_columns(pairs)
    stacks = [(_rehearsal(), _prefect_alone()) for _ in range(rounds)]
    yield "cmek up", *_columns([(ours[0], alone[0]) for ours, alone in stacks])
    yield "cmek rehearse", *_columns([(ours[1], alone[1]) for ours, alone in stacks])


def _columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [one for one, _ in pairs], [one for _, one in pairs]


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    started = time.monotonic()
    # no `check`: on an empty server `status` has nothing to show and exits with 1
    subprocess.run(command, env=environment, capture_output=True, check=False)  # noqa: S603
    return time.monotonic() - started


def _rehearsal() -> tuple[float, float]:
    """Seconds until the stack of `cmek up` is ready, and those of a whole rehearsal."""
    done = subprocess.run(  # noqa: S603 - our own command
        [_CMEK, "rehearse", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    seconds = json.loads(done.stdout)["seconds"]
    phases = ("database", "sandbox", "server", "deployments and worker")
    return sum(seconds[one] for one in phases), seconds["total"]


def _prefect_alone() -> tuple[float, float]:
    """The same two numbers for Prefect alone."""
    started = time.monotonic()
    with prefect_alone() as alone:
        ready = time.monotonic() - started
        alone.start(1)
        alone.wait_for("Suspended", 1)
        alone.resume_all()
        alone.wait_for("Completed", 1)
    return ready, time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
