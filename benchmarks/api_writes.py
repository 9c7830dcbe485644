"""`python -m benchmarks.api_writes`: create runs through the API while a worker executes others.

Prints how often each answer came, and how long an answer took. The client does not retry, so it
sees what a plain HTTP client or a browser would see. Exits with 1 on any answer other than 201.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import httpx

from tasks.runs import ONBOARDING
from tests.support.stack import Stack, running_stack


def write_runs(stack: Stack, count: int) -> tuple[Counter[str], list[float]]:
    """Create `count` runs, due tomorrow; returns how often each answer came, and all durations."""
    deployment = stack.client.read_deployment_by_name(ONBOARDING)
    body = {
        "parameters": {"request": stack.request(stack.workspace("fresh"))},
        "state": {
            "type": "SCHEDULED",
            "state_details": {
                "scheduled_time": (datetime.now(UTC) + timedelta(days=1)).isoformat()
            },
        },
    }
    answers: Counter[str] = Counter()
    seconds: list[float] = []
    with httpx.Client(base_url=stack.local.api_url, trust_env=False, timeout=120) as api:
        token = api.get("/csrf-token", params={"client": "bench"}).json()["token"]
        api.headers.update({"Prefect-Csrf-Client": "bench", "Prefect-Csrf-Token": token})
        for _ in range(count):
            started = time.monotonic()
            try:
                answer = api.post(f"/deployments/{deployment.id}/create_flow_run", json=body)
                answers[str(answer.status_code)] += 1
            except httpx.TransportError as error:
                answers[type(error).__name__] += 1
            seconds.append(time.monotonic() - started)
    return answers, seconds


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, default=500)
    parser.add_argument("--executing", type=int, default=24, help="runs that the worker executes")
    options = parser.parse_args()
    with running_stack() as stack:
        ready = sum(stack.local.seconds.values())
        busy = [
            stack.start_onboarding(stack.new_workspace(f"busy-{n}"), plan_only=True)
            for n in range(options.executing)
        ]
        stack.wait_for_state(busy[0], "Running", "Planned", seconds=120)
        answers, seconds = write_runs(stack, options.writes)
        ended = sum(stack.run(one.id).state_name == "Planned" for one in busy)
    sys.stdout.write(
        f"ready after {ready:.1f} s; {options.writes} writes in {sum(seconds):.1f} s while "
        f"{ended} of {options.executing} runs ended: "
        f"{', '.join(f'{number} times {what}' for what, number in sorted(answers.items()))}; "
        f"median {statistics.median(seconds) * 1000:.0f} ms, longest {max(seconds):.2f} s\n"
    )
    return int(set(answers) != {"201"})


if __name__ == "__main__":
    sys.exit(main())
