"""A waiting run says so, and a response that cannot have an effect is refused before it is sent."""

from __future__ import annotations

import json
import logging
import os
import pty
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO

import pytest
from rich.console import Console

from cli import approvals
from cli.approvals import ApprovalError
from cli.approve import ResponseInput, build_response
from cmek.tags import WAITING_TAG
from flows._approval import waiting_line
from flows.onboard import onboard_workspace
from tests.support import facts as make
from tests.support.command import exit_code
from tests.support.execution import deploy
from tests.support.onboarding import Onboardings
from tests.support.requests import APPROVER, REQUESTER


@pytest.fixture
def made_anew(bench: Onboardings) -> Iterator[Onboardings]:
    """A bench whose deployment the test may delete: it is deployed again for the next test."""
    yield bench
    bench.deployment = deploy(onboard_workspace, "onboard")


@pytest.mark.server
def test_a_waiting_run_says_so_in_name_tag_and_log_and_no_longer_when_it_goes_on(
    bench: Onboardings, caplog: pytest.LogCaptureFixture
) -> None:
    """It says who may approve, how and until when; a healthy wait logs no warning."""
    caplog.set_level(logging.INFO)
    run = bench.asked()
    waiting = run.read()
    assert waiting.name == f"onboard {bench.fresh} · waiting for approval"
    assert WAITING_TAG in waiting.tags
    said = [one for one in caplog.records if "Waiting for an approval" in one.getMessage()]
    (line,) = [one.getMessage() for one in said]
    assert f"Anyone but {REQUESTER} may approve: `cmek approve {run.id}`" in line
    assert "until 20" in line
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    run.approve()
    assert run.state == "Attached", run.message
    assert run.read().name == f"onboard {bench.fresh}"
    assert WAITING_TAG not in run.read().tags


@pytest.mark.server
def test_a_run_whose_deployment_was_made_anew_is_listed_and_not_answered(
    made_anew: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """No worker could continue it: the command says so, and what to do."""
    bench, run = made_anew, made_anew.asked()
    pending = approvals.read_pending(bench.client, run.id)
    assert exit_code("pending") == 0
    assert f"cmek approve {run.id}" in capsys.readouterr().out

    bench.client.delete_deployment(bench.deployment)
    bench.deployment = deploy(onboard_workspace, "onboard")
    assert exit_code("pending", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["run_id"] == str(run.id)
    assert "deleted or made anew" in row["problem"]
    for verb in ("approve", "reject"):
        assert exit_code(verb, str(run.id)) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "start a new onboarding" in said
    with pytest.raises(ApprovalError, match="nothing was answered"):
        approvals.respond(bench.client, pending, run.full_answer())
    assert run.state == "Suspended"


@pytest.mark.parametrize(
    ("approver", "why"),
    [(REQUESTER.upper(), "four eyes"), ("grace", "no e-mail address"), (APPROVER, "--acknowledge")],
)
def test_an_answer_that_the_gate_would_refuse_is_refused_before_it_is_sent(
    bench: Onboardings, capsys: pytest.CaptureFixture[str], approver: str, why: str
) -> None:
    """Each refusal has its own reason, and the run still waits with the same request."""
    run = bench.asked()
    answer = run.full_answer()
    given = [
        *("--workspace-id", answer["workspace_id"], "--plan-digest", answer["plan_digest"]),
        *("--approver", approver, "--comment", "fine"),
    ]
    if approver != APPROVER:
        given.append("--acknowledge-warnings")
    assert exit_code("approve", str(run.id), *given) == 1
    assert why in " ".join(capsys.readouterr().err.split())
    assert run.state == "Suspended"


@pytest.mark.parametrize(
    ("four_eyes", "signatures", "who"),
    [
        (True, 0, "Anyone but ada@example.com may approve"),
        (False, 0, "Anyone may approve"),
        (True, 1, "1 of this worker's signers, not the requester, may approve"),
        (False, 1, "1 of this worker's signers may approve"),
        (False, 2, "2 of this worker's signers, not the requester, may approve"),
    ],
)
def test_the_log_names_who_may_approve_as_the_gate_judges_it(
    four_eyes: bool, signatures: int, who: str
) -> None:
    request = make.REQUEST.model_copy(update={"four_eyes": four_eyes})
    asked = make.approval_request(make.plan(request=request), signatures=signatures)
    assert who in waiting_line(asked)


def test_enter_at_a_question_asks_it_again_and_loses_nothing(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only without a terminal something is missing; with one the person is still there."""
    pending = approvals.read_pending(bench.client, bench.asked().id)
    given = ResponseInput(acknowledge_warnings=True, comment="")
    typed = ["", pending.workspace, "", "  ", APPROVER, "", "as agreed"]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "w") as keyboard, os.fdopen(theirs) as terminal:
        keyboard.write("".join(f"{line}\n" for line in typed))
        keyboard.flush()
        monkeypatch.setattr("sys.stdin", terminal)
        console = Console(file=StringIO(), force_terminal=True)
        fields = build_response(pending, "approve", given, console)
    assert fields == {
        "decision": "approve",
        "workspace_id": pending.workspace,
        "plan_digest": pending.plan_digest,
        "approver": APPROVER,
        "comment": "as agreed",
        "acknowledge_warnings": True,
    }
    monkeypatch.setattr("sys.stdin", StringIO())
    with pytest.raises(ApprovalError, match=r"no terminal to ask in: give .*--comment"):
        build_response(pending, "approve", given, Console(file=StringIO()))


def test_a_run_that_ended_before_its_form_was_stored_is_told_from_one_that_stores_it(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can answer it, and Retry is offered for a run that has ended only."""
    run = bench.asked()
    state = run.read().state
    assert state is not None
    keyset = state.state_details.run_input_keyset
    assert keyset is not None
    bench.client.delete_flow_run_input(run.id, keyset["schema"])
    with pytest.raises(ApprovalError, match="yet: try again"):
        approvals.read_pending(bench.client, run.id)
    monkeypatch.setattr(approvals, "_STORED_WITHIN", timedelta(0))
    with pytest.raises(ApprovalError, match=f"flow-run cancel {run.id}"):
        approvals.read_pending(bench.client, run.id)
