"""People are told at once: of an approval request, and of how the onboarding ended."""

from __future__ import annotations

from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient

from cli.deploy import install
from tasks.runs import ONBOARDING
from tests.support.stack import Stack
from tests.support.watching import Sink, wait_until, webhook_block, webhook_sink

pytestmark = pytest.mark.e2e

MARKUP = "<!channel> <https://evil.example|x> `x` &amp; \u202e\x1b[31m\n"
"""What Slack, a mail reader or a terminal would obey."""


def forge(client: SyncPrefectClient, state: str, run_id: object, **payload: object) -> None:
    """Post the event that a run is in a state, as anyone who may write to the API can."""
    event = {
        "id": str(uuid4()),
        "occurred": "2030-01-01T00:00:00Z",
        "event": f"prefect.flow-run.{state}",
        "resource": {
            "prefect.resource.id": f"prefect.flow-run.{run_id}",
            "prefect.resource.name": MARKUP,
        },
        "related": [
            {
                "prefect.resource.id": f"prefect.flow.{uuid4()}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": "onboard-workspace",
            }
        ],
        "payload": payload,
    }
    client.request("POST", "/events", json=[event])


@pytest.mark.prove
def test_a_request_and_its_end_are_told_with_address_and_command(stack: Stack) -> None:
    """And a forged event can't put anything into a message but a run that the server has."""
    with webhook_sink() as sink:
        block = webhook_block(stack, sink)
        install(stack.client, [block], within={"approval-waits": 0})
        run = stack.start_onboarding(stack.new_workspace("told"))
        ask = stack.wait_for_ask(run)
        body = sink.wait_for("Approval requested")["body"]
        for told in (f"cmek approve {run.id}", f"{stack.local.ui_url}/", ask.workspace):
            assert told in body
        stack.answer(ask, decision="reject")
        stack.wait_for_state(run, "Rejected")
        assert f"Run {run.id}" in sink.wait_for("Onboarding: Rejected")["body"]
        _nothing_forged_is_shown(stack, sink)


def _nothing_forged_is_shown(stack: Stack, sink: Sink) -> None:
    deployment = stack.client.read_deployment_by_name(ONBOARDING)
    hostile = stack.client.request(
        "POST",
        "/flow_runs/",
        json={
            "flow_id": str(deployment.flow_id),
            "name": MARKUP,
            "parameters": {"request": {"workspace_id": MARKUP, "requested_by": MARKUP}},
        },
    ).json()
    forge(stack.client, "Suspended", hostile["id"], body=MARKUP)
    message = wait_until(
        lambda: next((one for one in sink.messages if hostile["id"] in one["body"]), None),
        "told of the run that a forged event names",
    )
    body = message["body"]
    assert not set("<>&`\u202e\x1b") & set(body), body
    (line,) = [one for one in body.splitlines() if one.startswith("Workspace: ")]
    assert "evil.example" in line
