"""`cmek onboard`, `pending`, `approve` and `reject` against a running server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.support.command import clean_environment, cmek_in_terminal, exit_code
from tests.support.stack import Stack

pytestmark = pytest.mark.e2e
PERSON = ("--requested-by", "ada@example.com")
LINES = 45
"""Most lines of a whole approval in a terminal, from the plan to the result."""
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(stack: Stack, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `cmek` on the stack without a terminal; returns exit code, and output on one line."""

    def run(*arguments: str) -> tuple[int, str]:
        with temporary_settings({PREFECT_API_URL: stack.local.api_url}):
            code = exit_code(*arguments)
        output = capsys.readouterr()
        return code, " ".join((output.out + output.err).split())

    return run


def onboard(stack: Stack, command: Command, *arguments: str) -> str:
    """Start an onboarding with the command; returns the run's id."""
    project = ("--project", stack.local.sandbox.project_id)
    code, said = command("onboard", *arguments, *project, *PERSON)
    found = re.search(r"runs/flow-run/([0-9a-f-]{36})", said)
    assert code == 0, said
    assert found, said
    return found[1]


def attach_calls(stack: Stack, workspace: str) -> list[str]:
    """The attach requests for a workspace that reached the sandbox."""
    return [
        one["status"]
        for one in stack.control.log(call="workspaces.update")
        if one["request"].get("external_key_id") and workspace in one["resource"]
    ]


def approve_in_terminal(
    stack: Stack, run_id: str, replies: list[tuple[str, str]], home: Path
) -> tuple[int, str]:
    """Approve by typing; returns exit code and screen."""
    environment = clean_environment(home, PREFECT_API_URL=stack.local.api_url)
    return cmek_in_terminal(["approve", run_id], replies, environment=environment, directory=home)


def typing(
    workspace: str, *, field: str = "id", approver: str = "grace@example.com"
) -> list[tuple[str, str]]:
    """The input of a person who accepts the warnings."""
    return [
        ("accept the warnings", "y"),
        (f"Type the workspace {field}", workspace),
        ("Your e-mail address", approver),
        ("Comment", "as agreed"),
    ]


def test_a_person_approves_in_a_terminal_by_typing_the_workspace_id(
    stack: Stack, command: Command, tmp_path: Path
) -> None:
    """Onboard, list the pending run, approve; a wrong id sends no response, the right one attaches.

    If the facts have changed, the approval ends with 3 and says so, and another one is needed.
    """
    workspace = stack.new_workspace("approved-at-first")
    run_id = onboard(stack, command, workspace)
    ask = stack.wait_for_pending(stack.run(run_id))
    _, listed = command("pending")
    assert f"{workspace}, requested by ada@example.com" in listed
    assert f"plan {ask.plan_digest[:12]} cmek approve {run_id}" in listed

    stack.admin("POST", f"workspaces/{workspace}", {"name": "approved-by-hand"})
    person = ("--approver", "grace@example.com", "--comment", "fine", "--acknowledge-warnings")
    typed_ahead = ("--workspace-id", workspace, "--plan-digest", ask.plan_digest)
    code, said = command("approve", run_id, *typed_ahead, *person, "--json")
    facts = json.loads(re.search(r"{.*}", said)[0])  # type: ignore[index]
    assert (code, facts["state_type"]) == (3, "PAUSED"), said
    (reason,) = [one for one in facts["reapproval_reasons"] if "approved-by-hand" in one]
    assert "approved-at-first" in reason
    ask = stack.wait_for_pending(stack.run(run_id), after=ask)

    code, screen = approve_in_terminal(stack, run_id, [("accept the warnings", "\x04")], tmp_path)
    assert (code, "nothing was answered: run " in screen) == (1, True), screen
    for typed, wanted in (("wrkspc_01Another11111", 1), (workspace, 0)):
        replies = typing(typed, approver="grace@example.com")
        code, screen = approve_in_terminal(stack, run_id, replies, tmp_path)
        assert code == wanted, screen
        assert ask.plan_digest in screen
        assert screen.count("\n") <= LINES, screen  # a spinner draws over one line
        assert len(attach_calls(stack, workspace)) == 1 - wanted
    assert "Attached" in screen


@pytest.mark.prove
def test_a_new_workspace_is_asked_for_once_and_approved_by_its_name(
    stack: Stack, command: Command, tmp_path: Path
) -> None:
    """The same command gives the same run; a wrong name sends nothing, the right one creates."""
    name = "Made by hand (1)"
    run_id, again = (onboard(stack, command, "--create-workspace", name) for _ in range(2))
    assert run_id == again
    stack.wait_for_pending(stack.run(run_id))
    _, listed = command("pending")
    assert f"{name}, requested by" in listed
    assert f"cmek approve {run_id}" in listed
    code, said = command(
        "check", "--create-workspace", name, "--json", "--project", "acme-kms-prod"
    )
    assert (code, f"the name '{name}' is free" in said) == (0, True), said

    made = stack.control.log(call="workspaces.create")
    for typed, wanted in ((name.lower(), 1), (name, 0)):
        replies = typing(typed, field="name")
        code, screen = approve_in_terminal(stack, run_id, replies, tmp_path)
        assert code == wanted, screen
        created = len(stack.control.log(call="workspaces.create")) - len(made)
        assert created == 1 - wanted
    assert "Attached" in screen


@pytest.mark.parametrize(
    ("more", "code", "state"),
    [
        pytest.param([], 3, "Suspended", marks=pytest.mark.prove),
        (["--plan-only"], 0, "Planned"),
    ],
)
def test_onboard_waits_and_says_how_the_run_stands(
    stack: Stack, command: Command, more: list[str], code: int, state: str
) -> None:
    """A person gets a line, a program one object; 3 means that a person must act."""
    workspace = stack.new_workspace(f"waited-for-{state}")
    project = ("--project", stack.local.sandbox.project_id)
    ended, said = command("onboard", workspace, *project, *PERSON, "--wait", "--json", *more)
    facts = json.loads(said[said.index("{") : said.index("}") + 1])
    assert (ended, facts["state"], facts["workspace"]) == (code, state, workspace), said
    assert stack.run(facts["run_id"]).name == facts["run"]
