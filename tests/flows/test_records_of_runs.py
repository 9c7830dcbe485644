"""A run trusts only the records that the worker itself wrote, and reads no stored result."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.states import Scheduled

from tests.flows.outcomes import assert_not_attached
from tests.support.kept import record_files
from tests.support.onboarding import Onboardings, Run


@pytest.fixture
def run(bench: Onboardings) -> Run:
    return bench.asked()


@pytest.mark.parametrize("name", ["request", "approval-request-1-1", "evidence"])
def test_a_record_that_somebody_changed_stops_the_run(run: Run, name: str) -> None:
    (file,) = record_files(run, name)
    file.write_text(file.read_text().replace("example.com", "example.org"))
    run.approve()
    assert_not_attached(run, "was not written by this worker")


def test_an_approval_request_that_is_lost_does_not_count(bench: Onboardings, run: Run) -> None:
    """The response is refused, and a retry makes a new request."""
    for file in record_files(run, "approval-request-1-1"):
        file.unlink()
    run.approve()
    assert_not_attached(run, "Retry the run for a new approval request")
    run.force(Scheduled(name="AwaitingRetry"))
    run.execute()
    run.approve()
    assert run.state == "Attached", run.message


def test_a_run_whose_pinned_request_is_lost_does_not_pin_another(run: Run) -> None:
    for file in record_files(run, "request"):
        file.unlink()
    run.approve()
    assert_not_attached(run, "the record of this run's request is gone")


def test_an_approval_request_of_another_run_does_not_count(bench: Onboardings, run: Run) -> None:
    """It is copied unchanged, with its valid MAC."""
    (good,) = record_files(run, "approval-request-1-1")
    run.answer(decision="reject")
    run.execute()
    again = bench.asked()
    (other,) = record_files(again, "approval-request-1-1")
    other.write_bytes(good.read_bytes())
    again.approve()
    assert_not_attached(again, "was not written by this worker")


@pytest.mark.server
def test_prefect_stores_no_result_of_ours(bench: Onboardings, tmp_path: Path) -> None:
    """So nothing that others store there is ever read back."""
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        run = bench.asked()
        run.approve()
    assert run.state == "Attached", run.message
    assert list(tmp_path.iterdir()) == []
