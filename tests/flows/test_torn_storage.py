"""A file of the result storage that a kill or a full disk has torn loses nothing that counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.states import Scheduled

from cmek.evidence.record import loads
from cmek.evidence.report import record_in
from tests.flows.outcomes import assert_not_attached
from tests.support.onboarding import Onboardings, Run


@pytest.fixture
def run(bench: Onboardings) -> Run:
    return bench.asked()


def kept(run: Run, name: str) -> list[Path]:
    """Both files in which the run keeps something, the one that is read first in front."""
    return sorted(PREFECT_LOCAL_STORAGE_PATH.value().glob(f"cmek-{run.id}-{name}*"))


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.prove)])
def test_a_torn_record_of_the_evidence_is_made_good_by_its_twin(
    bench: Onboardings, run: Run, which: int
) -> None:
    """Both are written, one after the other, so that only one can be torn at a time."""
    files = kept(run, "evidence")
    assert len(files) == 2
    torn = files[which].read_bytes()
    files[which].write_bytes(torn[: len(torn) // 2])
    run.approve()
    assert run.state == "Attached", run.message
    pages = [one for one in bench.artifacts(run) if (one.key or "").startswith("cmek-evidence-")]
    kinds = [entry.kind for entry in loads(record_in(str(pages[0].data))).entries]
    assert {"approval_request", "approval_response", "attached"} <= set(kinds)


def test_an_ask_of_which_nothing_readable_is_left_does_not_count(
    bench: Onboardings, run: Run
) -> None:
    """As if it were lost: refused, and asked anew by a retry."""
    for file in kept(run, "approval-request-1-1"):
        file.write_bytes(b"")
    run.approve()
    assert_not_attached(run, "Retry the run for a new approval request")
    run.force(Scheduled(name="AwaitingRetry"))
    run.execute()
    run.approve()
    assert run.state == "Attached", run.message
