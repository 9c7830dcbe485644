"""Explore schedules of the model; the same seed gives the same schedules."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextlib import ExitStack

import stamina
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.machine import Onboarding, stage


def explore(count: int, start: int) -> dict[str, int]:
    """Run `count` schedules or more; a schedule with an unsafe attach is shrunk and printed."""
    chosen = settings(
        max_examples=count,
        stateful_step_count=14,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    unsafe = 0
    with ExitStack() as stack:
        stage(stack)
        logging.disable(logging.CRITICAL)
        stack.enter_context(stamina.set_testing(True, attempts=4))
        try:
            run_state_machine_as_test(seed(start)(Onboarding), settings=chosen)
        except Exception:  # noqa: BLE001 - whatever the model found is to be told
            traceback.print_exc()
            unsafe = 1
    return dict(Onboarding.tally) | {"unsafe": unsafe}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(explore(int(sys.argv[1]), int(sys.argv[2]))) + "\n")
