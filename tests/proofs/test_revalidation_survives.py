"""A revalidation with crashes and faults: every key gets its verdict, every event is sent once.

Here a part of the points and scripts is tried; `make prove` tries all, and kills real processes.
"""

from __future__ import annotations

from tasks.artifacts import page_key
from tests.support.sweep_crashes import survive_in_sweep, sweep_points
from tests.support.sweep_faults import survive_sweep_faults, sweep_scripts
from tests.support.sweep_requests import survive_unanswered, unanswered_requests
from tests.support.sweeps import Sweeps

POINT_EVERY = 29
SCRIPT_EVERY = 101
REQUEST_EVERY = 7


def test_every_crash_of_a_revalidation_converges(sweeps: Sweeps) -> None:
    """Tried are the writes about a broken key, and a part of all other points."""
    points = sweep_points(sweeps)
    broken = sweeps.ids["disabled"]
    event = f"event cmek.key.broken cmek.key.{broken}"
    records = {f"artifact {page_key(broken)}", event, "follow-up", "memory reported"}
    assert records < {point.call for point in points}
    for number, point in enumerate(points):
        if point.call in records or not number % POINT_EVERY:
            survive_in_sweep(sweeps, point)


def test_no_fault_is_taken_for_a_verdict(sweeps: Sweeps) -> None:
    """No fault makes a healthy key broken, or a broken key healthy."""
    scripts = sweep_scripts(sweeps)
    calls = {script.call for script in scripts}
    assert {"external_keys.validate", "ListCryptoKeys", "GetIamPolicy"} <= calls
    for script in scripts[::SCRIPT_EVERY]:
        survive_sweep_faults(sweeps, script)


def test_what_prefect_does_not_answer_costs_one_thing_and_is_said(sweeps: Sweeps) -> None:
    """No record, event, table or follow-up of another key is lost."""
    for request in unanswered_requests(sweeps)[::REQUEST_EVERY]:
        survive_unanswered(sweeps, request)
