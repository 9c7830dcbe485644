"""Records in a bucket, as docs/operations.md says for more than one host."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bucket import running_bucket
from tests.support.stack import running_stack

pytestmark = [pytest.mark.e2e, pytest.mark.prove]


def test_a_waiting_run_goes_on_where_nothing_is_left_of_the_first_worker(tmp_path: Path) -> None:
    """Request and approval request are in the bucket; the workers share the key."""
    key = tmp_path / "records.key"
    key.write_bytes(bytes(range(32)))
    with running_bucket() as (address, objects):
        environment = {
            "STORAGE_EMULATOR_HOST": address,
            "CMEK_RECORDS": "gs://acme-records/runs",
            "CMEK_RECORDS_KEY_FILE": str(key),
        }
        with running_stack(extra_environment=environment) as stack:
            run = stack.start_onboarding(stack.workspace("fresh"))
            ask = stack.wait_for_pending(run)
            assert any(
                name.startswith(f"acme-records/runs/{run.id}/approval-request") for name in objects
            )
            stack.stop_worker()
            stack.local.start_worker("elsewhere")
            stack.answer(ask)
            stack.wait_for_state(run, "Attached", seconds=120)
            assert not (stack.local.home / ".local").exists()
