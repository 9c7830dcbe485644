"""The stack is private, a run cannot configure its worker, and the worker can be replaced."""

from __future__ import annotations

from pathlib import Path

import httpx
import psutil
import pytest

from cli.local.processes import StackError
from cli.local.stack import local_stack
from tasks.runs import ONBOARDING
from tests.conftest import CANARIES
from tests.support.stack import Stack

pytestmark = pytest.mark.e2e

PHASES = ("database", "sandbox", "server", "deployments and worker")


def test_no_part_of_the_stack_sees_the_callers_credentials(stack: Stack) -> None:
    """Children get only listed variables, not the caller's environment without some names."""
    for child in stack.local.children:
        environment = psutil.Process(child.process.pid).environ()
        assert not [name for name in CANARIES if name in str(environment)], child.name
        assert environment["DO_NOT_TRACK"] == "1"
        assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_the_stack_is_private_and_its_parts_are_known(stack: Stack) -> None:
    """Only the owner can enter the home; the UI talks to this server; each phase is timed."""
    assert stack.local.home.stat().st_mode & 0o777 == 0o700
    settings = httpx.get(f"{stack.local.ui_url}/ui-settings", trust_env=False).json()
    assert settings["api_url"] == stack.local.api_url
    assert set(stack.local.seconds) == set(PHASES)


def test_a_run_has_no_say_about_its_environment_command_or_directory(stack: Stack) -> None:
    """Somebody who may start runs cannot execute code as the worker through job variables.

    Each of these variables would crash the run before it plans, if the worker used it.
    """
    deployment = stack.client.read_deployment_by_name(ONBOARDING)
    workspace, project = stack.workspace("fresh"), stack.local.sandbox.project_id
    request = {"workspace": workspace, "project_id": project, "plan_only": True}
    environment = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    run = stack.client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"request": request | {"requested_by": "ada@example.com"}},
        job_variables={"env": environment, "command": "false", "working_dir": "/nonexistent"},
    )
    stack.wait_for_state(run, "Planned")


def test_a_run_waits_for_a_worker_that_is_gone_and_goes_on_with_the_next(stack: Stack) -> None:
    """Tests can stop the worker and start another one."""
    stack.stop_worker()
    run = stack.start_onboarding(stack.workspace("fresh"), plan_only=True)
    stack.wait_for_state(run, "Scheduled", "Late")
    stack.local.start_worker()
    stack.wait_for_state(run, "Planned")


def test_a_part_that_does_not_start_is_named_with_its_log_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has what is needed to act, and the home is removed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        pytest.raises(StackError, match=r"sandbox: ended before ready(.|\n)*--no-such-option"),
        local_stack(sandbox_arguments=["--no-such-option"]),
    ):
        pytest.fail("it started")
    assert list(tmp_path.iterdir()) == []
