"""Explore schedules of the model; the same seed gives the same schedules."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import stamina
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.machine import Onboarding, stage

_TELL: Final = 500
_COUNTED: Final = 0.75
"""Hypothesis counts fewer than it runs: not those that it happens to draw again."""


class Told(Onboarding):
    """The model, which reports its progress."""

    def teardown(self) -> None:
        """Count, and report the progress."""
        super().teardown()
        if not self.tally["schedules"] % _TELL:
            sys.stderr.write(json.dumps(self.tally) + "\n")


@contextmanager
def modelled() -> Iterator[None]:
    """The sandbox and the approvers for all schedules of this process."""
    with ExitStack() as stack:
        stage(stack)
        logging.disable(logging.CRITICAL)
        stack.enter_context(stamina.set_testing(True, attempts=4))
        yield


def unsafe_in(count: int, start: int, *, shrink: bool) -> str | None:
    """Run about `count` schedules; how the first unsafe one ended, or None."""
    chosen = settings(
        max_examples=round(_COUNTED * count),
        stateful_step_count=14,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(seed(start)(Told), settings=chosen)
    except Exception as error:  # noqa: BLE001 - whatever the model found is reported
        if shrink:
            traceback.print_exc()
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


def explore(count: int, start: int) -> dict[str, int]:
    """Run about `count` schedules; a schedule with an unsafe attach is shrunk and printed."""
    with modelled():
        unsafe = unsafe_in(count, start, shrink=True)
    return dict(Onboarding.tally) | {"unsafe": int(unsafe is not None)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(explore(int(sys.argv[1]), int(sys.argv[2]))) + "\n")
