"""Each way of starting an onboarding from outside, over HTTP, to an attached workspace."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling, Scheduled

from cli.deploy import PROJECT, deploy
from cmek.tags import workspace_tag
from tasks.runs import ONBOARDING
from tests.support.busy_server import busy_server
from tests.support.examples import run_example
from tests.support.requests import REQUESTER
from tests.support.stack import Stack, start_run
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def follow(
    stack: Stack, heading: str, language: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run an example of docs/api.md."""
    given = {
        "PREFECT_API_URL": stack.local.api_url,
        "PROJECT": stack.local.sandbox.project_id,
        "REQUESTER": REQUESTER,
    }
    return run_example("api.md", heading, language, given | variables)


def attach(stack: Stack, run_id: UUID) -> None:
    """Approve, and check that the workspace has its key."""
    ask = stack.wait_for_pending(run_id)
    stack.answer(ask)
    stack.wait_for_state(run_id, "Attached")
    assert stack.is_attached(ask.workspace)


def plan(stack: Stack, workspace: str) -> None:
    """Start a run that only plans, and wait for its end."""
    run = start_run(stack.local.api_url, stack.request(workspace) | {"plan_only": True})
    stack.wait_for_state(run, "Planned")


def ended_and_deleted(stack: Stack, workspace: str) -> None:
    """Two runs that have ended, of which the older one was deleted: so one is counted."""
    deployment = stack.client.read_deployment_by_name("onboard-workspace/onboard").id
    for epoch in range(2):
        run = stack.client.create_flow_run_from_deployment(
            deployment,
            parameters={"request": stack.request(workspace)},
            state=Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1)),
            idempotency_key=f"onboard:{workspace}:{epoch}",
            tags=["cmek", workspace_tag(workspace)],
        )
        stack.client.set_flow_run_state(run.id, Cancelled(), force=True)
        if epoch == 0:
            stack.client.delete_flow_run(run.id)


@pytest.mark.parametrize(
    ("heading", "language"),
    [
        ("With curl", "bash"),
        pytest.param("With Python", "python", marks=pytest.mark.prove),
    ],
)
def test_the_documented_call_starts_one_run_and_notices_another_request(
    stack: Stack, heading: str, language: str
) -> None:
    """This holds with a busy server, and whatever was deleted or only planned before.

    A call with another request reports the difference; after a cancel it starts a new run.
    """
    workspace = stack.new_workspace(f"by-{language}")
    ended_and_deleted(stack, workspace)
    plan(stack, workspace)
    with busy_server(stack.local.api_url) as (url, asked):
        first = follow(stack, heading, language, WORKSPACE=workspace, PREFECT_API_URL=url)
    assert (first.returncode, len(asked)) == (0, 4), first.stderr
    assert min(asked.values()) > 1
    plan(stack, workspace)
    again = follow(stack, heading, language, WORKSPACE=workspace)
    assert again.stdout == first.stdout, again.stderr
    by_command = start_run(stack.local.api_url, stack.request(workspace))
    assert str(by_command.id) == first.stdout.strip(), "command and example have the same key"
    assert len(stack.runs_of(workspace)) == 4
    other = follow(stack, heading, language, WORKSPACE=workspace, REQUESTER="eve@example.com")
    assert other.returncode == 1
    assert "another request; nothing was started" in other.stderr
    run_id = UUID(first.stdout.strip())
    stack.wait_for_pending(run_id)
    stack.client.set_flow_run_state(run_id, Cancelling())
    stack.wait_for_state(run_id, "Cancelled")
    anew = follow(stack, heading, language, WORKSPACE=workspace)
    assert anew.returncode == 0, anew.stderr
    second = UUID(anew.stdout.strip())
    assert second != run_id


@pytest.mark.parametrize(
    ("heading", "language"), [("With curl", "bash"), ("With Python", "python")]
)
def test_the_documented_call_says_which_field_is_wrong(
    stack: Stack, heading: str, language: str
) -> None:
    """It says so before anything runs."""
    refused = follow(stack, heading, language, WORKSPACE="wrkspc_x")
    assert refused.returncode != 0
    assert "workspace" in refused.stdout + refused.stderr
    assert stack.runs_of("wrkspc_x", at_least=0) == []


@pytest.mark.parametrize("parameters", [None, []])
def test_parameters_that_are_no_object_are_refused_as_documented(
    stack: Stack, parameters: object
) -> None:
    """Prefect itself refuses them, with another status than for a request that does not fit."""
    onboard = stack.client.read_deployment_by_name(ONBOARDING)
    with pytest.raises(PrefectHTTPStatusError) as refused:
        stack.client.request(
            "POST",
            "/deployments/{id}/create_flow_run",
            path_params={"id": onboard.id},
            json={"parameters": parameters},
        )
    answer = refused.value.response
    assert answer.status_code == 422
    assert "parameters" in str(answer.json()["exception_detail"])


@pytest.mark.prove
def test_an_unknown_parameter_is_refused_also_after_another_deploy(stack: Stack) -> None:
    """Prefect's deploy allows them, `cmek deploy` forbids them; a paused schedule stays paused."""
    hourly = stack.client.read_deployment_by_name("discover-workspaces/scheduled")
    stack.client.request(
        "PATCH",
        "/deployments/{id}/schedules/{schedule_id}",
        path_params={"id": hourly.id, "schedule_id": hourly.schedules[0].id},
        json={"active": False},
    )
    done = deploy(stack.client, PROJECT / "prefect.yaml", stack.local.sandbox.project_id)
    assert {ONBOARDING, "discover-workspaces/scheduled", "workspace-created/triggered"} <= set(
        done.names
    )
    for deployment in stack.client.read_deployments():
        with pytest.raises(PrefectHTTPStatusError) as refused:
            stack.client.create_flow_run_from_deployment(deployment.id, parameters={"bogus": 1})
        assert refused.value.response.status_code == 409, deployment.name
    hourly = stack.client.read_deployment_by_name("discover-workspaces/scheduled")
    assert [one.active for one in hourly.schedules] == [False]


def test_a_posted_event_ends_in_an_attached_workspace(stack: Stack) -> None:
    """It is the documented event; the same one again starts nothing more."""
    workspace = stack.new_workspace("announced <b>{{ 6*7 }}</b>")
    sent = follow(stack, "An event", "bash", WORKSPACE=workspace)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    (run,) = stack.runs_of(workspace)
    assert run.parameters["request"]["requested_by"] == REQUESTER
    attach(stack, run.id)


@pytest.mark.prove
def test_a_malformed_event_shows_as_a_failed_run(stack: Stack) -> None:
    """Its message names the field; people see it among the other runs."""
    event = {
        "id": str(uuid4()),
        "occurred": "2026-11-24T00:00:00Z",
        "event": "anthropic.workspace.created",
        "resource": {"prefect.resource.id": "anthropic.workspace.unknown"},
        "payload": {"workspace": {"$ref": {"block_document_id": str(uuid4())}}},
    }
    stack.client.request("POST", "/events", json=[event]).raise_for_status()
    (run,) = stack.wait_for_runs(
        state={"name": {"any_": ["Failed"]}},
        name={"any_": ["a workspace was created"]},
    )
    assert run.state is not None
    assert "workspace_id: is needed" in str(run.state.message)


@pytest.mark.prove
def test_a_discovery_ends_in_an_attached_workspace(stack: Stack) -> None:
    """The API starts the discovery, as its schedule would."""
    workspace = stack.new_workspace("found", cmek="onboard")
    hourly = stack.client.read_deployment_by_name("discover-workspaces/scheduled")
    run = stack.client.create_flow_run_from_deployment(hourly.id)
    stack.wait_for_state(run.id, "Started")
    (onboarding,) = stack.runs_of(workspace)
    attach(stack, onboarding.id)


@pytest.mark.prove
def test_of_runs_that_start_at_the_same_moment_one_attaches(stack: Stack) -> None:
    """Two start by hand, without a key, one by an event; the others end, and name the first."""
    workspace = stack.new_workspace("wanted by many")
    at: State[None] = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(seconds=2))
    onboard = stack.client.read_deployment_by_name(ONBOARDING)
    request = {
        "workspace": workspace,
        "project_id": stack.local.sandbox.project_id,
        "requested_by": REQUESTER,
    }
    by_hand = [
        stack.client.create_flow_run_from_deployment(
            onboard.id, parameters={"request": request}, state=at
        ).id
        for _ in range(2)
    ]
    sent = follow(stack, "An event", "bash", WORKSPACE=workspace)
    assert sent.returncode == 0, sent.stderr
    (announced,) = stack.wait_for_runs(
        state={"name": {"any_": ["Started", "Nothing to start"]}},
        start_time={"after_": at.timestamp},
        name={"any_": ["a workspace was created"]},
    )
    by_event = {run.id for run in stack.runs_of(workspace)} - set(by_hand)
    assert len(by_event) == (announced.state_name == "Started")
    every = [*by_hand, *by_event]
    wait_until(lambda: all(settled(stack.run(one)) for one in every), "settled")
    (first,) = (one for one in every if stack.run(one).state_name == "Suspended")
    for other in set(every) - {first}:
        state = stack.run(other).state
        assert state is not None
        assert (state.name, str(first) in str(state.message)) == ("Duplicate", True)
    attach(stack, first)
    sent_keys = [
        one
        for one in stack.control.log(call="workspaces.update")
        if one["resource"].endswith(workspace) and "external_key_id" in one["request"]
    ]
    assert len(sent_keys) == 1


def settled(run: FlowRun) -> bool:
    """Whether the run waits, or has ended."""
    return run.state is not None and (run.state.is_paused() or run.state.is_final())
