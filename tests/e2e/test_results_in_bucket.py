"""Results in a bucket, as docs/operations.md says for more than one host."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.schemas.objects import TaskRun

from cli import client as runs
from tests.support.bucket import running_bucket
from tests.support.stack import Stack, running_stack

pytestmark = [pytest.mark.e2e, pytest.mark.prove]


def save_bucket_block(stack: Stack) -> None:
    """The block `cmek-results`, as the UI makes it."""
    kind = stack.client.read_block_type_by_slug("gcs-bucket")
    wanted = {"block_schemas": {"block_type_id": {"any_": [str(kind.id)]}}}
    schema = stack.client.request("POST", "/block_schemas/filter", json=wanted).json()[0]
    key = json.loads(Path(stack.local.sandbox.google_credentials_file).read_text())
    document = {
        "name": "cmek-results",
        "block_type_id": str(kind.id),
        "block_schema_id": schema["id"],
        "data": {"bucket": "acme-results", "gcp_credentials": {"service_account_info": key}},
    }
    stack.client.request("POST", "/block_documents/", json=document).raise_for_status()


def executed(stack: Stack, run_id: UUID) -> list[str]:
    """Tasks that did their work, rather than finding a result."""

    def worked(task: TaskRun) -> bool:
        return task.state is not None and task.state.name == "Completed"

    return [task.name for task in runs.task_runs(stack.client, run_id) if worked(task)]


def test_a_waiting_run_goes_on_where_nothing_is_left_of_the_first_worker() -> None:
    """Parameters, approval request and results are in the bucket: no step is done twice."""
    with running_bucket() as (address, objects):
        environment = {
            "STORAGE_EMULATOR_HOST": address,
            "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": "gcs-bucket/cmek-results",
        }
        with running_stack(extra_environment=environment) as stack:
            save_bucket_block(stack)
            run = stack.start_onboarding(stack.workspace("fresh"))
            ask = stack.wait_for_ask(run)
            assert any(
                name.startswith(f"acme-results/cmek-{run.id}-approval-request") for name in objects
            )
            stack.stop_worker()
            home = Path(stack.local.environment["PREFECT_HOME"])
            shutil.rmtree(home / "storage", ignore_errors=True)
            stack.local.start_worker("elsewhere")
            stack.answer(ask)
            stack.wait_for_state(run, "Attached", seconds=120)
            writing = sorted(name[0] for name in executed(stack, run.id) if name[0] in "1235")
            assert writing == ["1", "2", "3", "5"]
            assert not (home / "storage").exists()
