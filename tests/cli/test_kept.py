"""A deploy keeps what a team has decided in its deployments, and says where the file differs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel

from cli.client import RunError
from cli.deploy import PREFECT_FILE, PROJECT, Deployed, create_work_pool, deploy
from cli.doctor.server import check_triggers
from cli.kept import load_flow, triggers_of
from cmek.discovery.request import DiscoveryRequest
from flows.discover import discover_workspaces

pytestmark = pytest.mark.e2e
DISCOVERY = "discover-workspaces/scheduled"
DAILY = "revalidate-keys/scheduled"
QUICK = "revalidate-keys/quick"
DECIDED = {"opt_in": "name", "name_patterns": ["*-prod"], "exclude": ["x"], "policy": "strict"}
"""What docs/api.md says to set in the parameters of discovery."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The deployments that have a schedule."""
    content = yaml.safe_load(PREFECT_FILE.read_text())
    content["deployments"] = [one for one in content["deployments"] if one.get("schedules")]
    return written(content, tmp_path)


def written(content: dict[str, Any], folder: Path) -> Path:
    path = folder / "some.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def client(prefect_server: None, file: Path) -> Iterator[SyncPrefectClient]:
    """Of a server with the pool, and the deployments as a first deploy makes them."""
    with get_client(sync_client=True) as api:
        for deployment in api.read_deployments():
            api.delete_deployment(deployment.id)
        for name in ("cmek", "apart"):
            try:
                api.read_work_pool(name)
            except ObjectNotFound:
                create_work_pool(api, name, PROJECT / "deploy" / "work_pool.json", 4)
        assert deploy(api, file, "acme-kms-prod").settings == []
        yield api


def change(client: SyncPrefectClient, name: str, **fields: Any) -> None:
    """As the UI and the API change a deployment."""
    ids = {"id": client.read_deployment_by_name(name).id}
    client.request("PATCH", "/deployments/{id}", path_params=ids, json=fields).raise_for_status()


def change_schedule(client: SyncPrefectClient, name: str, **fields: Any) -> None:
    """The one that the file gives the deployment."""
    found = client.read_deployment_by_name(name)
    (schedule,) = [one for one in found.schedules if one.slug]
    ids = {"id": found.id, "schedule_id": schedule.id}
    client.request(
        "PATCH", "/deployments/{id}/schedules/{schedule_id}", path_params=ids, json=fields
    ).raise_for_status()


def decided(one: DeploymentResponse) -> dict[str, Any]:
    """What a team may have decided in a deployment."""
    fields = {"parameters", "paused", "work_pool_name", "work_queue_name"}
    when = {"schedule", "active", "slug", "parameters"}
    schedules = [each.model_dump(mode="json", include=when) for each in one.schedules]
    return one.model_dump(include=fields) | {"schedules": schedules}


def everything(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    return {str(one.id): decided(one) for one in client.read_deployments()}


def said(done: Deployed) -> str:
    return "\n".join(map(str, done.settings))


def decide(client: SyncPrefectClient) -> None:
    """Every kind of decision."""
    change(client, DISCOVERY, parameters={"request": DECIDED | {"project_id": "acme-kms-prod"}})
    change(client, DISCOVERY, paused=True)
    change_schedule(client, DISCOVERY, active=False)
    change_schedule(client, DAILY, schedule={"cron": "3 7 * * *", "timezone": "Asia/Tokyo"})
    change_schedule(client, QUICK, schedule={"interval": 1800})
    change(client, QUICK, parameters={"request": {"depth": "quick", "deadline_seconds": 600}})
    change(client, DAILY, work_pool_name="apart", work_queue_name="watchers")


def test_a_trigger_that_was_switched_off_stays_off_and_doctor_says_so(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    """Pausing the deployment would not stop it, so this is how a team stops a flood of events."""
    content = yaml.safe_load(PREFECT_FILE.read_text())
    content["deployments"] = [one for one in content["deployments"] if one.get("triggers")]
    file = written(content, tmp_path)
    deploy(client, file, "acme-kms-prod")
    wanted = {f"{load_flow(one).name}/{one['name']}": one for one in content["deployments"]}

    def off() -> list[str]:
        deployments = {name: client.read_deployment_by_name(name) for name in wanted}
        found = [triggers_of(client, one) for one in deployments.values()]
        finding = check_triggers(client, deployments, wanted)
        names = [name for one in found for name, enabled in one.items() if not enabled]
        assert finding.status == ("warn" if names else "pass")
        assert all(name in finding.found for name in names)
        return names

    assert off() == []
    deployment = client.read_deployment_by_name("workspace-created/triggered")
    for one in client.read_resource_related_automations(f"prefect.deployment.{deployment.id}"):
        client.pause_automation(one.id)
    assert off() == ["cmek-workspace-created"]
    done = deploy(client, file, "acme-kms-prod")
    assert off() == ["cmek-workspace-created"]
    assert "trigger cmek-workspace-created: enabled = false; the file has true" in said(done)


def test_a_deploy_keeps_every_decision_and_names_each(
    client: SyncPrefectClient, file: Path
) -> None:
    decide(client)
    before = everything(client)
    done = deploy(client, file, "acme-kms-prod")
    assert everything(client) == before
    assert all(one.kept for one in done.settings)
    for line in (
        f'Kept {DISCOVERY}: request.opt_in = "name"; the file has none',
        f'Kept {DISCOVERY}: request.exclude = ["x"]; the file has none',
        f"Kept {DISCOVERY}: paused = true; the file has false",
        f"Kept {DISCOVERY}: schedule hourly: active = false; the file has true",
        f'Kept {DAILY}: schedule daily: cron = "3 7 * * *"; the file has "17 5 * * *"',
        f'Kept {DAILY}: schedule daily: timezone = "Asia/Tokyo"; the file has "America/New_York"',
        f'Kept {DAILY}: work pool and queue = "apart/watchers"; the file has "cmek/default"',
        f"Kept {QUICK}: schedule quarter-hourly: interval = 1800.0; the file has none",
        f"Kept {QUICK}: request.deadline_seconds = 600; the file has 840",
    ):
        assert line in said(done).splitlines()
    for one in client.read_deployments():
        assert (one.parameter_openapi_schema or {})["additionalProperties"] is False


def test_what_is_given_now_is_set_and_said(client: SyncPrefectClient, file: Path) -> None:
    """The project; without one the server's stays."""
    decide(client)
    assert "project_id" not in said(deploy(client, file, "acme-kms-prod"))
    assert 'project_id = "acme-kms-prod"; the file has none' in said(deploy(client, file, None))
    done = deploy(client, file, "acme-kms-test")
    assert f'Set {DISCOVERY}: request.project_id = "acme-kms-test"; it had "acme-kms-prod"' in said(
        done
    )
    found = client.read_deployment_by_name(DISCOVERY).parameters
    assert found == {"request": DECIDED | {"project_id": "acme-kms-test"}}


def test_a_pool_that_is_asked_for_is_used(client: SyncPrefectClient, file: Path) -> None:
    """And the move is said."""
    decide(client)
    done = deploy(client, file, "acme-kms-prod", on="process")
    line = f'Set {DAILY}: work pool and queue = "cmek/default"; it had "apart/watchers"'
    assert line in said(done).splitlines()
    found = client.read_deployment_by_name(DAILY)
    assert (found.work_pool_name, found.work_queue_name) == ("cmek", "default")


def test_schedules_that_a_team_has_added_stay_beside_a_new_one(
    client: SyncPrefectClient, file: Path, tmp_path: Path
) -> None:
    """Also those without a slug, which let Prefect replace all of a deployment's."""
    found = client.read_deployment_by_name(DAILY)
    added = [{"schedule": {"cron": "1 1 * * *", "timezone": "UTC"}, "active": False}]
    client.request(
        "POST", "/deployments/{id}/schedules", path_params={"id": found.id}, json=added
    ).raise_for_status()
    change_schedule(client, DAILY, schedule={"cron": "3 7 * * *", "timezone": "Asia/Tokyo"})
    before = everything(client)
    done = deploy(client, file, "acme-kms-prod")
    assert everything(client) == before
    assert f'Kept {DAILY}: schedule None = "1 1 * * *"; the file has none' in said(done)
    content = yaml.safe_load(file.read_text())
    (daily,) = (
        one
        for one in content["deployments"]
        if one.get("schedules", [{}])[0].get("slug") == "daily"
    )
    daily["schedules"].append({"slug": "weekly", "cron": "5 5 * * 0"})
    done = deploy(client, written(content, tmp_path), "acme-kms-prod")
    assert f'Set {DAILY}: schedule weekly = "5 5 * * 0"; it had none' in said(done)
    schedules = decided(client.read_deployment_by_name(DAILY))["schedules"]
    assert len(schedules) == 3
    assert all(one in schedules for one in before[str(found.id)]["schedules"])


def test_a_deployment_that_was_deleted_is_made_as_in_the_file(
    client: SyncPrefectClient, file: Path
) -> None:
    decide(client)
    client.delete_deployment(client.read_deployment_by_name(DISCOVERY).id)
    done = deploy(client, file, "acme-kms-prod")
    assert DISCOVERY not in said(done)
    made = client.read_deployment_by_name(DISCOVERY)
    assert made.parameters == {"request": {"project_id": "acme-kms-prod"}}
    assert not made.paused


def test_a_deployment_without_the_tag_keeps_its_decisions(
    client: SyncPrefectClient, file: Path
) -> None:
    decide(client)
    change(client, DISCOVERY, tags=["ours"])
    before = everything(client)
    deploy(client, file, "acme-kms-prod")
    assert everything(client) == before


def test_a_deploy_that_fails_half_way_has_reset_nothing(
    client: SyncPrefectClient, file: Path, tmp_path: Path
) -> None:
    decide(client)
    before = everything(client)
    content = yaml.safe_load(file.read_text())
    content["deployments"].append(
        content["deployments"][0] | {"name": "bad", "schedules": [{"cron": "never"}]}
    )
    with pytest.raises(RunError, match="deploy again"):
        deploy(client, written(content, tmp_path), "acme-kms-prod")
    assert everything(client) == before


class Narrower(BaseModel):
    """A release's request without `exclude`, and without the opt-in by name."""

    model_config = DiscoveryRequest.model_config
    project_id: str = ""
    policy: str = "default"
    opt_in: bool = False
    name_patterns: tuple[str, ...] = ()


def test_a_parameter_that_is_not_accepted_any_more_is_named_and_nothing_is_deployed(
    client: SyncPrefectClient, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(client)
    change(client, QUICK, description="as it was")
    before = everything(client)
    annotations = {"request": Narrower, "return": None}
    monkeypatch.setattr(discover_workspaces.fn, "__annotations__", annotations)
    with pytest.raises(RunError, match="nothing was deployed") as refused:
        deploy(client, file, "acme-kms-prod")
    assert f"{DISCOVERY}: request" in str(refused.value)
    for word in ("request.opt_in", "'exclude'"):
        assert word in str(refused.value)
    assert everything(client) == before
    assert client.read_deployment_by_name(QUICK).description == "as it was"


@pytest.mark.parametrize(
    "pattern", ["{{ $CMEK_CANARY }}", "a {{ prefect.blocks.secret.bait }}", "{{ctx.x}}"]
)
def test_no_parameter_is_filled_in_from_the_shell_that_deploys(
    client: SyncPrefectClient, file: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    """Who may change a deployment may not read the operator's environment."""
    monkeypatch.setenv("CMEK_CANARY", "a secret of the operator")
    change(client, DISCOVERY, parameters={"request": {"name_patterns": [pattern]}})
    with pytest.raises(RunError, match=r"would fill in .*; nothing was deployed"):
        deploy(client, file, "acme-kms-prod")
    found = client.read_deployment_by_name(DISCOVERY).parameters
    assert found == {"request": {"name_patterns": [pattern]}}
