"""What somebody with access to Prefect's API can try at the gate: none of it attaches.

Each test makes one attack on a waiting run, lets the worker go on, and counts the attach requests.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
import time_machine
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Cancelling, Pending, Running, Scheduled

from cli import approvals
from cli.approvals import ApprovalError
from tests.flows.outcomes import assert_not_attached, assert_waiting
from tests.support.onboarding import Onboardings, Run
from tests.support.requests import REQUESTER


@pytest.fixture
def run(bench: Onboardings) -> Run:
    return bench.asked()


def test_every_field_that_binds_a_response_is_required(run: Run) -> None:
    """A resume without a response must not fall back on defaults: an approval needs every field."""
    form = run.form()
    assert {*form["required"], *form["then"]["required"]} == set(form["properties"])


def test_a_resume_with_no_body_is_not_an_approval(bench: Onboardings, run: Run) -> None:
    """B1: the server refuses it, and the run still waits."""
    result = bench.client.resume_flow_run(run.id)
    assert result.status.value == "REJECT"
    assert_waiting(run)


REFUSED = {"Failed", "Suspended"}
"""Failed, or waiting with a new approval request: a forced state starts another attempt."""

FORCED = [
    Scheduled(name="Resuming"),
    pytest.param(Running(), marks=pytest.mark.prove),
    pytest.param(Scheduled(), marks=pytest.mark.prove),
    pytest.param(Scheduled(name="AwaitingRetry"), marks=pytest.mark.prove),
    pytest.param(Pending(), marks=pytest.mark.prove),
]


@pytest.mark.server
@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(False, id="no response"),
        pytest.param(True, id="for another plan", marks=pytest.mark.prove),
    ],
)
@pytest.mark.parametrize("state", FORCED, ids=lambda state: f"{state.type.value}-{state.name}")
def test_a_forced_state_is_not_an_approval(
    bench: Onboardings, run: Run, state: State[Any], forged: bool
) -> None:
    """B2: without a response, or with a forged one whose digest is of another plan."""
    if forged:
        run.forge_response(run.full_answer() | {"plan_digest": "f" * 64})
    run.force(state)
    run.execute()
    assert run.state in REFUSED
    assert bench.attaches() == []


@pytest.mark.server
def test_a_template_can_not_stand_for_a_typed_confirmation(bench: Onboardings, run: Run) -> None:
    """B3: the server evaluates templates in answers; what they produce must still fit the form."""
    jinja = {"__prefect_kind": "jinja", "template": "{{ flow_run.name }}{{ 6 * 7 }}"}
    for field in ("workspace_id", "plan_digest", "decision"):
        assert run.answer(**{field: jinja}).status.value == "REJECT", field
    assert_waiting(run)


def test_an_answer_that_does_not_fit_the_form_is_refused_by_the_server(
    bench: Onboardings, run: Run
) -> None:
    """The run still waits, so that a correct response can be given."""
    misfits: list[dict[str, Any]] = [
        {"workspace_id": "wrkspc_01SomethingElse1111111111"},
        {"plan_digest": "0" * 64},
        {"decision": "yes"},
        {"approver": "not an address"},
        {"comment": ""},
        {"comment": None},
        {"acknowledge_warnings": None},
        {"acknowledge_warnings": False},
        *({name: f"{run.full_answer()[name]}\n"} for name in ("workspace_id", "plan_digest")),
        {"approver": "grace@example.com\n"},
        {"approver": "grace@example.com\u2028"},
        {"extra": "field"},
    ]
    for changes in misfits:
        assert run.answer(**changes).status.value == "REJECT", changes
    assert_waiting(run)


@pytest.mark.server
def test_of_many_answers_at_once_one_counts_and_attaches_once(bench: Onboardings, run: Run) -> None:
    """B5: one is accepted; the others get the reason, whichever way the server refuses them."""
    answers = [run.full_answer(comment=f"number {n}") for n in range(8)]
    pending = approvals.read_pending(bench.client, run.id)
    at_once = Barrier(len(answers))

    def respond(fields: dict[str, Any]) -> str:
        with get_client(sync_client=True) as client:
            at_once.wait()
            try:
                approvals.respond(client, pending, fields)
            except ApprovalError as error:
                return str(error).partition("refused the answer: ")[2]
        return "taken"

    with ThreadPoolExecutor(len(answers)) as pool:
        # Prefect's settings, which name the server, are in this thread's context only
        sent = [pool.submit(copy_context().run, respond, fields) for fields in answers]
        taken = [one.result() for one in sent]
    assert taken.count("taken") == 1
    too_late = {"another answer came first", "Cannot resume a flow run that is not paused."}
    assert set(taken) <= {"taken"} | too_late
    run.execute()
    assert run.state == "Attached"
    assert len(bench.attaches()) == 1


@pytest.mark.server
def test_after_a_retry_only_a_new_response_counts(bench: Onboardings, run: Run) -> None:
    """B6, B8: a run that failed after its approval requests another one."""
    bench.control.fault("external_keys.validate", kind="error", status=500, times=40)
    run.approve()
    assert run.state == "Failed"
    bench.control.clear_faults()
    run.force(Scheduled(name="AwaitingRetry"))
    run.execute()
    assert run.state == "Suspended"
    run.force(Scheduled(name="Resuming"))  # with the old response
    run.execute()
    assert run.state == "Suspended"
    assert bench.attaches() == []
    run.approve()
    assert run.state == "Attached", run.message
    assert len(bench.attaches()) == 1


@pytest.mark.parametrize(
    "change",
    [{"workspace": "wrkspc_01ResearchDev11111111111"}, {"overrides": {"four_eyes": False}}],
    ids=["another workspace", "no four eyes"],
)
def test_parameters_patched_while_waiting_end_the_run(
    bench: Onboardings, run: Run, change: dict[str, object]
) -> None:
    """Only the pinned request is valid; there is not even a new approval request."""
    answer = run.full_answer()
    parameters = {"request": run.parameters["request"] | change}
    patched = bench.client._client.patch(f"/flow_runs/{run.id}", json={"parameters": parameters})
    assert patched.status_code == 204
    bench.client.resume_flow_run(run.id, run_input=answer)
    run.execute()
    assert_not_attached(run, "parameters of this run were changed")


def test_an_answer_once_refused_stays_refused_when_the_facts_flip_back(
    bench: Onboardings, run: Run
) -> None:
    """A→B→A: B gets a new request; neither a forced state nor the old response revives A's."""
    workspace = bench.sandbox.world.admin.workspaces[bench.fresh]
    old = run.full_answer()
    workspace.name = "renamed"
    run.approve()
    assert run.state == "Suspended"
    assert "was 'payments-prod', is 'renamed'" in run.text().replace("\\", "")
    workspace.name = "payments-prod"
    assert bench.client.resume_flow_run(run.id, run_input=old).status.value == "REJECT"
    run.force(Scheduled(name="Resuming"))
    run.execute()
    assert run.state in REFUSED
    assert bench.attaches() == []


def test_differences_are_asked_about_three_more_times_at_most(bench: Onboardings, run: Run) -> None:
    workspace = bench.sandbox.world.admin.workspaces[bench.fresh]
    for number in range(4):
        assert run.state == "Suspended"
        workspace.name = f"name {number}"
        run.approve()
    assert_not_attached(run, "after approval request 4")


@pytest.mark.parametrize(
    "name",
    [
        "ADA+kms@EXAMPLE.com",
        REQUESTER,
        "ada@examp1e.com",
    ],
)
def test_the_requester_can_not_approve(bench: Onboardings, run: Run, name: str) -> None:
    """Four eyes is on by default and ignores case, mailbox tags and look-alike letters."""
    run.approve(approver=name)
    assert_waiting(run, "four eyes")


def test_an_approval_that_comes_into_effect_after_the_expiry_is_refused(
    bench: Onboardings, run: Run
) -> None:
    """The response came in time, but no worker executed the run until eight days later."""
    run.answer()
    with time_machine.travel(datetime.now(UTC) + timedelta(days=8)):
        run.execute()
    assert_waiting(run, "expired")


@pytest.mark.server
def test_a_cancelled_run_attaches_nothing(bench: Onboardings, run: Run) -> None:
    answer = run.full_answer()
    bench.client.set_flow_run_state(run.id, Cancelling())
    assert run.state == "Cancelled"
    assert bench.client.resume_flow_run(run.id, run_input=answer).status.value == "ABORT"
    assert bench.attaches() == []
