"""`cmek onboard`, `approve` and `reject` without a terminal: refusals, texts, and exit codes."""

from __future__ import annotations

import io
import json
import signal
from uuid import UUID, uuid4

import pytest
import typer
from prefect.states import Failed
from rich.console import Console

from blocks.anthropic_admin import AnthropicAdmin
from blocks.onboarding_policy import OnboardingPolicy
from cli.approve import Steps
from tests.support.command import exit_code
from tests.support.onboarding import Onboardings
from tests.support.requests import APPROVER, REQUESTER


def onboard(*arguments: str) -> int:
    """Start an onboarding; returns the command's exit code."""
    usual = ("--project", "acme-kms-prod", "--requested-by", REQUESTER)
    return exit_code("onboard", *arguments, *usual)


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
    """For example a gateway on the worker's loopback."""
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
    bench: Onboardings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the command, not the run; the same for a run that takes too long."""
    assert onboard(bench.fresh, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    console = Console(file=io.StringIO(), width=200)
    steps = Steps(bench.client, UUID(facts["run_id"]), console)
    show = Steps._show_ended

    def interrupted(steps: Steps) -> str:
        going = show(steps)
        signal.raise_signal(signal.SIGINT)
        return going

    # a shell starts background jobs with SIGINT ignored, and the suite may be one
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Steps, "_show_ended", interrupted)
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


def test_a_response_must_be_complete_and_fit_the_plan(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script cannot approve blindly or another plan; a complete rejection is accepted."""
    run = bench.asked()
    digest = run.full_answer()["plan_digest"]
    workspace = ("--workspace-id", bench.fresh)
    complete = (
        *(*workspace, "--plan-digest", digest),
        *("--approver", APPROVER, "--comment", "not this one"),
    )
    refused = [
        (("approve", *workspace), "give --plan-digest, --approver, --comment"),
        (("approve", *complete, "--plan-digest", "0" * 64), "nothing was answered"),
        (("approve", *complete), "--acknowledge-warnings"),
        (("reject", *complete, "--approver", "no address"), "no e-mail address"),
    ]
    for (verb, *options), message in refused:
        assert exit_code(verb, str(run.id), *options) == 1
        assert message in " ".join(capsys.readouterr().err.split())
    with run.executed_when_scheduled():
        assert exit_code("reject", str(run.id), *complete, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["state"], facts["decision"]) == ("Rejected", "reject")
    assert (facts["run_id"], facts["workspace"]) == (str(run.id), bench.fresh)
    assert facts["url"].endswith(str(run.id))
    assert exit_code("reject", str(run.id), *complete) == 1
    assert "waits for no approval: it is Rejected" in " ".join(capsys.readouterr().err.split())
    assert bench.attaches() == []


def test_an_idempotency_key_gives_the_same_run_and_never_another_requests(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server returns the old run for a changed request too; the command reports it."""
    key = ("--idempotency-key", f"ticket-{uuid4()}", "--json")
    started = []
    for _ in range(2):
        assert onboard(bench.fresh, *key) == 0
        started.append(json.loads(capsys.readouterr().out)["run_id"])
    assert started[0] == started[1]
    assert onboard(bench.fresh, *key, "--plan-only") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "belongs to run" in said
    assert "started with another request" in said
    assert "nothing was started now" in said


def test_the_last_sentence_of_a_run_is_one_line(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names keys and commands to copy, and is longer than any screen is wide."""
    key = ("--idempotency-key", f"ticket-{uuid4()}")
    assert onboard(bench.fresh, *key, "--json") == 0
    run_id = UUID(json.loads(capsys.readouterr().out)["run_id"])
    said = f"{bench.key_name} is DISABLED: gcloud kms keys versions enable 1 --key {bench.key_name}"
    bench.client.set_flow_run_state(run_id, Failed(message=said), force=True)
    assert onboard(bench.fresh, *key, "--wait") == 1
    assert f"Failed {said}" in capsys.readouterr().out.splitlines()


def test_an_unknown_run_is_said_to_be_unknown(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name without a run is an error, not an empty answer."""
    assert exit_code("approve", "brave-otter") == 1
    assert "no run of this id or name" in " ".join(capsys.readouterr().err.split())
