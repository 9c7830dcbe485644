"""`python -m benchmarks.checks`: all prerequisite checks together, against the slowest request.

The sandbox is a process of its own and answers every Google call after the same latency, so this is
the time of the slowest request. The ratio is the length of the longest chain of dependent requests,
plus what connecting and this project add. Exits with 1 when the wanted ratio is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time

from tests.support.checking import check
from tests.support.sandbox import SandboxProcess, sandbox_process

MOST_RATIO = 4.0
MOST_REQUESTS = 32


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="latency of each Google call")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with sandbox_process("checks", module="benchmarks.seeded") as sandbox:
        sandbox.control.switches(kms_latency_seconds=options.seconds)
        sandbox.control.google(latency_seconds=options.seconds)
        all_checks = asyncio.run(_measure(sandbox, options.rounds))
        sandbox.control.clear_log()
        asyncio.run(_one_check(sandbox))
        requests = len(sandbox.control.log())
    ratio = all_checks / options.seconds
    sys.stdout.write(
        f"All checks: {all_checks:.2f} s, {requests} requests; a request {options.seconds:g} s; "
        f"ratio {ratio:.2f} (at most {MOST_RATIO:g}); median of {options.rounds}\n"
    )
    return int(ratio > MOST_RATIO or requests > MOST_REQUESTS)


async def _measure(sandbox: SandboxProcess, rounds: int) -> float:
    """Median seconds of all checks, each round with new clients."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.monotonic()
        await _one_check(sandbox)
        seconds.append(time.monotonic() - started)
    # the first round warms the sandbox up
    return statistics.median(seconds[1:])


async def _one_check(sandbox: SandboxProcess) -> None:
    report = await check(sandbox)
    if report.failed:
        raise SystemExit("; ".join(f"{one.title}: {one.evidence}" for one in report.failed))


if __name__ == "__main__":
    sys.exit(main())
