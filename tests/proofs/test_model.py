"""No schedule of honest people, attackers, faults and crashes leads to an unsafe attach."""

from __future__ import annotations

from contextlib import ExitStack

import stamina
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.machine import Onboarding, stage

SHORT = settings(
    max_examples=40,
    stateful_step_count=14,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""For every test run; `make prove` explores 10,000 schedules."""


def test_no_schedule_leads_to_an_unsafe_attach() -> None:
    """Every attach is judged by a witness; some schedules do end with one."""
    with ExitStack() as stack:
        stage(stack)
        stamina.set_testing(True, attempts=4)
        try:
            run_state_machine_as_test(Onboarding, settings=SHORT)
        finally:
            stamina.set_testing(False)
    assert Onboarding.tally["attach requests"] > 0
