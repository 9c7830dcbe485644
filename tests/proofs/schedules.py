"""Explore schedules of the model; the same seed gives the same schedules."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import stamina
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.errors import Flaky
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.support.machine import Onboarding, stage

_TELL: Final = 500
_INDEPENDENT: Final = "independent"
AVAILABLE_PROVIDERS[_INDEPENDENT] = HypothesisProvider
"""Draws each schedule independently. Hypothesis's own search adds about six variants to each drawn
one, which keep most of its draws, so that a hundred schedules tried only some twenty endings."""


class Told(Onboarding):
    """The model, which reports its progress."""

    def teardown(self) -> None:
        """Count, and report the progress."""
        super().teardown()
        if not self.tally["schedules"] % _TELL:
            sys.stderr.write(json.dumps(self.tally) + "\n")


@contextmanager
def modelled() -> Iterator[None]:
    """Start the sandbox and enrol the approvers, once for all schedules of this process."""
    with ExitStack() as stack:
        stage(stack)
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, logging.NOTSET)
        stack.enter_context(stamina.set_testing(True, attempts=4))
        yield


@dataclass(frozen=True, slots=True)
class Exploration:
    """The result of some schedules."""

    schedules: int
    """How many were run, including the one that ended the exploration."""
    unsafe: str | None = None
    """How the first unsafe one ended."""
    flaky: str | None = None
    """A schedule that went another way when it was repeated: a fault of the model, no verdict."""


def explored(
    machine: type[RuleBasedStateMachine], count: int, start: int, *, shrink: bool, steps: int = 14
) -> Exploration:
    """Run `count` schedules of a model, until one is unsafe."""
    chosen = settings(
        backend=_INDEPENDENT,
        max_examples=count,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    tally: Counter[str] = machine.tally  # type: ignore[attr-defined]
    before = tally["schedules"]
    unsafe = flaky = None
    try:
        run_state_machine_as_test(seed(start)(machine), settings=chosen)
    except Flaky as error:
        flaky = f"{type(error).__name__}: {error}".partition("\n")[0]
    except Exception as error:  # noqa: BLE001 - whatever the model found is reported
        if shrink:
            traceback.print_exc()
        unsafe = f"{type(error).__name__}: {error}".partition("\n")[0]
    return Exploration(tally["schedules"] - before, unsafe, flaky)


def explore(count: int, start: int) -> dict[str, object]:
    """Run about `count` schedules; a schedule with an unsafe attach is shrunk and printed."""
    with modelled():
        found = explored(Told, count, start, shrink=True)
    return dict(Onboarding.tally) | {
        "unsafe": int(found.unsafe is not None),
        "flaky": found.flaky or "",
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(explore(int(sys.argv[1]), int(sys.argv[2]))) + "\n")
