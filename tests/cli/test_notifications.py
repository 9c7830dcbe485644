"""People are notified at once of an approval request, and of the end of the onboarding."""

from __future__ import annotations

import email
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from uuid import uuid4

import pytest
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from cli.deploy import install
from tasks.runs import ONBOARDING
from tests.support.stack import Stack
from tests.support.waiting import wait_until
from tests.support.watching import Sink, webhook_block, webhook_sink

pytestmark = pytest.mark.e2e

MARKUP = "<!channel> <https://evil.example|x> `x` &amp; \u202e\x1b[31m\n"
"""Markup that Slack, a mail reader or a terminal would interpret."""


@contextmanager
def mail_server() -> Iterator[tuple[str, list[Message]]]:
    """A minimal SMTP server (RFC 5321); yields its address for Apprise, and the received mails."""
    received: list[Message] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say(220)
            while verb := self.rfile.readline().decode().split(" ")[0].strip().upper():
                self._say({"DATA": 354, "QUIT": 221}.get(verb, 250))
                if verb == "DATA":
                    lines = iter(self.rfile.readline, b".\r\n")
                    received.append(email.message_from_bytes(b"".join(lines)))
                    self._say(250)

        def _say(self, code: int) -> None:
            self.wfile.write(f"{code} mail.example\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        yield f"mailto://127.0.0.1:{port}?from=cmek@example.com&to=ops@example.com", received
        server.shutdown()


def mail_block(stack: Stack, address: str) -> str:
    """Make a block that sends mail: every notification block takes an address of Apprise."""
    with temporary_settings({PREFECT_API_URL: stack.local.api_url}):
        SlackWebhook(url=SecretStr(address)).save("mail", overwrite=True)
    return "slack-webhook/mail"


def text_of(mail: Message) -> str:
    """What a mail reader shows: the text of all parts."""
    parts = [part for part in mail.walk() if not part.is_multipart()]
    return "\n".join(bytes(part.get_payload(decode=True)).decode() for part in parts)


def forge(client: SyncPrefectClient, state: str, run_id: object, **payload: object) -> None:
    """Post the event that a run is in a state, as every writer to the API can."""
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
def test_a_request_and_its_end_are_notified_with_address_and_command(stack: Stack) -> None:
    """A forged event can put nothing into a message but a run that is on the server."""
    with webhook_sink() as sink, mail_server() as (address, mails):
        blocks = [webhook_block(stack, sink), mail_block(stack, address)]
        install(stack.client, blocks, within={"approval-waits": 0})
        run = stack.start_onboarding(stack.new_workspace("told"))
        ask = stack.wait_for_pending(run)
        body = sink.wait_for("Approval requested", f"cmek approve {run.id}")
        plan = ask.approval_request.plan
        for told in (f"cmek approve {run.id}", f"{stack.local.ui_url}/", ask.workspace):
            assert told in body
        for told in (plan.key_name, ask.plan_digest[:12], *plan.warning_titles):
            assert told in body
        mail = wait_until(
            lambda: next((m for m in mails if f"cmek approve {run.id}" in text_of(m)), None),
            "told by mail",
        )
        assert str(mail["Subject"]).startswith("Approval requested")
        stack.answer(ask, decision="reject")
        stack.wait_for_state(run, "Rejected")
        body = sink.wait_for("Onboarding: Rejected", f"Run {run.id}")
        assert "cmek leftovers\n" in body
        _nothing_forged_is_shown(stack, sink)


def _nothing_forged_is_shown(stack: Stack, sink: Sink) -> None:
    deployment = stack.client.read_deployment_by_name(ONBOARDING)
    hostile = stack.client.request(
        "POST",
        "/flow_runs/",
        json={
            "flow_id": str(deployment.flow_id),
            "name": MARKUP,
            "parameters": {"request": {"workspace": MARKUP, "requested_by": MARKUP}},
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
    assert line == "Workspace: see the run"
    assert "evil.example" not in body
