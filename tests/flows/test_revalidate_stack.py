"""The revalidation on a real server and worker: schedule, kill and retry, notifications."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from cli.client import RunError
from cli.deploy import PROJECT, REMINDER, deploy, find_deployments, install
from cli.doctor.server import check_automations
from cli.local.stack import WORKER
from cli.show import history, read_fleet
from tests.support.killing import kill_worker
from tests.support.revalidation import Revalidations
from tests.support.stack import Stack
from tests.support.waiting import wait_until
from tests.support.watching import (
    change_key,
    listening,
    webhook_block,
    webhook_sink,
)

pytestmark = pytest.mark.e2e
PREFECT_FILE = PROJECT / "prefect.yaml"
DEPLOYMENT = "revalidate-keys/scheduled"
EVERY_SECONDS = 20


@pytest.fixture
def daily(stack: Stack) -> Revalidations:
    return Revalidations(stack.client, stack.client.read_deployment_by_name(DEPLOYMENT).id)


def finished(stack: Stack, run: FlowRun) -> FlowRun:

    def ended() -> FlowRun | None:
        found = stack.client.read_flow_run(run.id)
        return found if found.state and found.state.is_final() else None

    return wait_until(ended, "ended", 60)


def schedule(stack: Stack, daily: Revalidations) -> dict[str, Any]:
    ids = {"id": daily.deployment}
    response = stack.client.request("GET", "/deployments/{id}", path_params=ids)
    (only,) = response.json()["schedules"]
    return dict(only)


def set_schedule(stack: Stack, daily: Revalidations, **fields: Any) -> None:
    ids = {"id": daily.deployment, "schedule_id": schedule(stack, daily)["id"]}
    stack.client.request(
        "PATCH", "/deployments/{id}/schedules/{schedule_id}", path_params=ids, json=fields
    ).raise_for_status()
    # the scheduler reads changed deployments every few seconds, all of them once a minute
    stack.client.request(
        "PATCH", "/deployments/{id}", path_params=ids, json={"paused": False}
    ).raise_for_status()


def deploy_again(stack: Stack) -> None:
    command = ["-m", "prefect", "deploy", "--all", "--prefect-file", str(PREFECT_FILE)]
    subprocess.run(
        [sys.executable, *command],
        env=dict(stack.local.environment),
        cwd=stack.local.home,
        check=True,
        capture_output=True,
    )


def test_the_schedule_names_its_time_zone_and_fires(stack: Stack, daily: Revalidations) -> None:
    """The server's scheduler makes a run, the worker executes it, status and history show it."""
    planned = schedule(stack, daily)
    assert planned["active"]
    assert planned["schedule"]["timezone"]
    set_schedule(stack, daily, schedule={"interval": EVERY_SECONDS})
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[daily.deployment]))

    def automatic() -> FlowRun | None:
        runs = stack.client.read_flow_runs(flow_run_filter=wanted)
        ended = [r for r in runs if r.auto_scheduled and r.state and r.state.is_final()]
        return ended[0] if ended else None

    run = wait_until(automatic, "revalidated by schedule", 90)
    set_schedule(stack, daily, schedule=planned["schedule"])
    for other in stack.client.read_flow_runs(flow_run_filter=wanted):
        if other.state is None or other.state.is_scheduled():
            stack.client.delete_flow_run(other.id)
    assert run.state_name == "Failed"  # a sample key is broken
    broken = stack.workspace("broken")
    rows = read_fleet(stack.client)
    assert rows[0].level == "broken"
    assert broken in rows[0].workspaces
    last = [one for one in history(stack.client, broken) if "verdict" in one.what][-1]
    assert "broken" in last.what
    assert "primary version 1 is DISABLED" in last.outcome


def test_a_paused_schedule_stays_paused_when_it_is_deployed_again(
    stack: Stack, daily: Revalidations
) -> None:
    """Its slug tells Prefect that it is the same schedule."""
    set_schedule(stack, daily, active=False)
    deploy_again(stack)
    assert schedule(stack, daily)["active"] is False
    set_schedule(stack, daily, active=True)


def test_a_deploy_that_fails_half_way_opens_no_form_and_says_the_cause_last(
    stack: Stack, tmp_path: Path
) -> None:
    """Prefect writes each deployment's schema again, open to any parameter."""
    content = yaml.safe_load(PREFECT_FILE.read_text())
    content["deployments"][-1]["schedules"] = [{"cron": "no such time"}]
    file = tmp_path / "prefect.yaml"
    file.write_text(yaml.safe_dump(content))
    try:
        with pytest.raises(RunError, match="deploy again") as refused:
            deploy(stack.client, file, stack.local.sandbox.project_id)
        assert len(str(refused.value)) < 1500
        found = find_deployments(stack.client)
        forms = [(one.parameter_openapi_schema or {}).get("additionalProperties") for one in found]
        assert forms == [False] * len(found)
    finally:
        stack.deploy()


@pytest.mark.parametrize("text", ["{", "just text", "deployments: [{name: x}]", "\x00"])
def test_a_file_without_valid_deployments_is_named(stack: Stack, tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(text)
    with pytest.raises(RunError, match=r"other\.yaml.*nothing was deployed"):
        deploy(stack.client, file, None)


@pytest.mark.prove
def test_a_killed_worker_loses_nothing_once_the_run_is_retried(
    stack: Stack, daily: Revalidations
) -> None:
    """The keys that were checked before the kill are not checked again; the others are."""
    keys = _more_external_keys(stack, 6)
    stack.control.switches(validate_seconds=1.5)
    stack.control.clear_log()
    run = daily.start(external_keys=keys, concurrency=1)
    wait_until(lambda: len(_validated(stack)) >= 3, "half done")
    kill_worker(stack, next(one for one in stack.local.children if one.name == WORKER))
    done = [key for key in keys if daily.pages(key)]
    assert 0 < len(done) < len(keys)
    stack.control.clear_log()
    stack.local.start_worker()
    stack.client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
    ended = finished(stack, run)
    stack.control.switches(validate_seconds=0)
    assert ended.state_name == "At risk", ended.state
    again = _validated(stack)
    assert set(keys) - set(done) <= set(again)
    assert set(again) & set(done[:1]) == set()
    levels = {row.external_key_id: row.level for row in daily.rows(ended)}
    assert {levels[key] for key in keys} == {"at_risk"}


def test_a_reminder_is_removed_by_zero_hours(stack: Stack) -> None:
    """It may have been installed before; the others stay, and `cmek doctor` misses nothing."""
    name = REMINDER
    with webhook_sink() as sink:
        blocks = [webhook_block(stack, sink)]
        install(stack.client, blocks)
        assert install(stack.client, blocks, within={"approval-waits": 0})[name] == "removed"
        left = {one.name for one in stack.client.read_automations()}
        assert name not in left
        assert "cmek: approval requested" in left
        assert check_automations(stack.client).status == "pass"
        (other,) = stack.client.read_automations_by_name("cmek: key broken")
        stack.client.delete_automation(other.id)
        assert check_automations(stack.client).status == "warn"
        assert name not in install(stack.client, blocks, within={"approval-waits": 0})
        assert install(stack.client, blocks)[name] == "installed"


@pytest.mark.prove
def test_notification_blocks_get_every_alert(stack: Stack, daily: Revalidations) -> None:
    """A broken key, a recovered one, an approval that waits, a revalidation that did not run."""
    with webhook_sink() as sink:
        block = webhook_block(stack, sink)
        within: dict[str, float | None] = {"approval-waits": 10.0, "revalidation-missed": 10.0}
        before = {one.name for one in stack.client.read_automations()}  # of other tests
        made = install(stack.client, [block], within=within)
        assert {n for n, change in made.items() if change != "installed"} == before & set(made)
        assert set(install(stack.client, [block], within=within).values()) == {"unchanged"}
        waiting = stack.start_onboarding(stack.workspace())
        stack.wait_for_pending(waiting)
        (key,) = _more_external_keys(stack, 1)
        finished(stack, daily.start(external_keys=[key]))
        sink.wait_for("Key at risk", f"{key} is reported as at risk: kms-key-not-rotated-off.")
        name = _key_name(stack, key)
        change_key(stack, name, enabled=False)
        finished(stack, daily.start(external_keys=[key]))
        sink.wait_for("Broken key", f"{key} is reported as broken: primary-disabled.")
        change_key(stack, name, enabled=True)
        finished(stack, daily.start(external_keys=[key], record_anew=True))
        sink.wait_for("Key recovered", f"{key} is reported as healthy again.")
        sink.wait_for("waits for an approval", str(waiting.id), 60)
        sink.wait_for("No full check", "", 60)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_a_broken_key_is_notified_by_its_webhook_and_by_its_audit_log(
    stack: Stack, daily: Revalidations, tmp_path: Path
) -> None:
    """It needs no schedule: sandbox, `cmek listen`, event, check of that key, notification."""
    stack.deploy()  # with the triggers, which a plain `prefect deploy` of another test replaced
    finished(stack, daily.start())
    attached = [row for row in read_fleet(stack.client) if row.workspaces]
    # another test may have registered the same crypto key again
    key = next(row for row in attached if row.key_name.endswith("search-prod"))
    # make it healthy and record its present state, whatever other tests have done to it
    change_key(stack, key.key_name, enabled=True)
    finished(stack, daily.start(external_keys=[key.external_key_id], record_anew=True))
    with webhook_sink() as sink, listening(stack, tmp_path) as listener:
        install(stack.client, [webhook_block(stack, sink)])
        signal = stack.client.read_deployment_by_name("revalidate-keys/signal").id

        def told() -> list[str]:
            """Of this key: a sample's may be told late."""
            subjects = [one["subject"] for one in sink.messages]
            return [one for one in subjects if key.external_key_id in one]

        listener.only("webhook")
        change_key(stack, key.key_name, enabled=False)
        wait_until(lambda: told() or None, "notified by webhook", 150)
        listener.only("audit log")
        change_key(stack, key.key_name, enabled=True)
        wait_until(lambda: told()[1:] or None, "notified by audit log", 150)
        assert [one.partition(":")[0] for one in told()] == ["Broken key", "Key recovered"]
        runs = stack.wait_for_runs(deployment_id={"any_": [signal]})
        asked = [run.parameters["request"]["external_keys"] for run in runs]
        assert any(key.external_key_id in one for one in asked), asked
        same = {row.external_key_id for row in attached if row.key_name == key.key_name}
        assert all(same.issuperset(one) for one in asked), asked


def _more_external_keys(stack: Stack, count: int) -> list[str]:
    sandbox = stack.local.sandbox
    headers = {"x-api-key": sandbox.admin_key, "anthropic-version": "2023-06-01"}
    with httpx.Client(base_url=sandbox.http, headers=headers, trust_env=False) as api:
        keys = api.get("/v1/organizations/external_keys").json()["data"]
        working = next(k for k in keys if k["provider_config"]["key_name"].endswith("search-prod"))
        body = {"display_name": "again", "provider_config": working["provider_config"]}
        made = [
            api.post("/v1/organizations/external_keys", json=body).json()["id"]
            for _ in range(count)
        ]
    for key in made:  # nobody is notified about a key that no workspace has
        workspace = stack.new_workspace(f"watched-{key[-8:]}")
        stack.admin("POST", f"workspaces/{workspace}", {"external_key_id": key})
    return made


def _key_name(stack: Stack, external_key_id: str) -> str:
    found = stack.admin("GET", f"external_keys/{external_key_id}")
    return str(found["provider_config"]["key_name"])


def _validated(stack: Stack) -> list[str]:
    return [
        one["resource"].rpartition("/")[2]
        for one in stack.control.log(call="external_keys.validate")
        if one["status"] != "PENDING"
    ]
