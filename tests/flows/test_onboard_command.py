"""`cmek onboard`: what it refuses before a run exists, what it says, and how it exits."""

from __future__ import annotations

import io
import json
import signal
import threading
from uuid import UUID

import pytest
import typer
from rich.console import Console

from blocks.anthropic_admin import AnthropicAdmin
from blocks.onboarding_policy import OnboardingPolicy
from cli.approve import Steps
from cli.main import main
from tests.support.onboarding import REQUESTER, Onboardings


def onboard(*arguments: str) -> int:
    """The command; its exit code."""
    usual = ("--project", "acme-kms-prod", "--requested-by", REQUESTER)
    with pytest.raises(SystemExit) as ended:
        main(["onboard", *arguments, *usual])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("", "is not in the organization"),
        ("archived", "was archived"),
        ("default", "is the default workspace"),
        ("attached", "already has another key"),
    ],
)
def test_a_workspace_that_the_run_would_refuse_gets_no_run(
    bench: Onboardings, capsys: pytest.CaptureFixture[str], state: str, said: str
) -> None:
    workspace = bench.workspace(state) if state else "wrkspc_01NoSuchWorkspace11111111"
    before = len(bench.client.read_flow_runs())
    assert onboard(workspace) == 1
    assert said in " ".join(capsys.readouterr().err.split())
    assert len(bench.client.read_flow_runs()) == before
    assert bench.writes() == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--policy", "nowhere"], "onboarding-policy/nowhere"),
        (["--policy", "strict", "--set", "location=us-west1"], "overrides.location is 'us-west1'"),
    ],
)
def test_what_the_policy_refuses_gets_no_run(
    bench: Onboardings, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    OnboardingPolicy(may_override=()).save("strict", overwrite=True)
    before = len(bench.client.read_flow_runs())
    assert onboard(bench.fresh, *more) == 1
    assert said in " ".join(capsys.readouterr().err.split())
    assert len(bench.client.read_flow_runs()) == before


def test_what_can_not_be_read_here_is_said_and_left_to_the_run(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with a gateway on the worker's loopback."""
    AnthropicAdmin(base_url="http://127.0.0.1:9", admin_key=bench.sandbox.admin_key).save(
        "far-away", overwrite=True
    )
    OnboardingPolicy(anthropic_block="far-away").save("remote", overwrite=True)
    assert onboard(bench.fresh, "--policy", "remote", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["workspace"] == bench.fresh
    assert facts["policy"] == "remote"
    assert facts["state"] == "Scheduled"
    assert "here it could not be read" in facts["not_checked"]
    run = bench.client.read_flow_run(facts["run_id"])
    assert run.parameters["request"] == {
        "workspace": bench.fresh,
        "project_id": "acme-kms-prod",
        "requested_by": REQUESTER,
        "policy": "remote",
    }


@pytest.mark.server
def test_who_stops_following_is_told_that_the_run_goes_on(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends the command and not the run; so does a run that takes too long."""
    assert onboard(bench.fresh, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    console = Console(file=io.StringIO(), width=200)
    steps = Steps(bench.client, UUID(facts["run_id"]), console)
    # where the whole suite runs in a shell's background, the signal is ignored from the start
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(1, signal.raise_signal, (signal.SIGINT,)).start()
        with pytest.raises(typer.Exit) as ended:
            steps.follow(seconds=120)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.exit_code == 130
    assert isinstance(console.file, io.StringIO)
    assert f"the run goes on: {facts['url']}" in console.file.getvalue()
    with pytest.raises(TimeoutError, match=f"goes on without this command: {facts['url']}"):
        steps.follow(seconds=0)
    assert bench.client.read_flow_run(facts["run_id"]).state_name == "Scheduled"
