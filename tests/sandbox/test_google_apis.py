"""The Google APIs that the checks read: they fit Google's documents, and each state can be set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sandbox.control import TOKEN_HEADER
from sandbox.server import Sandbox
from tests.support.checking import check
from tests.support.discovery import discovery
from tests.support.sandbox import running
from tests.support.staging import FOLDER, KEY, ORGANIZATION, PROJECT, Stage
from tests.support.world import NUMBER

DOCUMENTS = {
    "cloudbilling": "cloudbilling.v1",
    "serviceusage": "serviceusage.v1",
    "orgpolicy": "orgpolicy.v2",
    "accesscontextmanager": "accesscontextmanager.v1",
    "kmsinventory": "kmsinventory.v1",
}


@pytest.fixture(scope="module")
def module_sandbox() -> Iterator[Sandbox]:
    """One sandbox for the file."""
    with running(minimal=True) as (sandbox, _):
        yield sandbox


@pytest.fixture
def stage(module_sandbox: Sandbox) -> Stage:
    """A healthy project with a key."""
    stage = Stage(module_sandbox.world)
    stage.reset()
    stage.key()
    return stage


@pytest.fixture
def http(module_sandbox: Sandbox) -> Iterator[httpx.Client]:
    """A plain client."""
    headers = {TOKEN_HEADER: module_sandbox.control_token}
    with httpx.Client(base_url=module_sandbox.http, headers=headers, trust_env=False) as client:
        yield client


def _get(http: httpx.Client, path: str, **query: str) -> dict[str, Any]:
    response = http.get(path, params=query)
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.mark.anyio
async def test_requests_and_answers_fit_googles_discovery_documents(
    module_sandbox: Sandbox, stage: Stage
) -> None:
    world = stage.world
    stage.perimeter(accessLevels=["accessPolicies/987654321/accessLevels/office"])
    stage.audit(FOLDER, ["DATA_READ"], service="allServices", exempted="user:ada@example.com")
    stage.grant(
        PROJECT, "roles/viewer", condition="request.time < timestamp('2030-01-01T00:00:00Z')"
    )
    constraints = world.kms.constraints
    constraints.allowed_policy_member_domains = ["C0sandbox"]
    constraints.allowed_member_subjects = ["user:ada@example.com"]
    constraints.resource_locations = ["us-east5"]
    world.google.protected_resources = {
        str(KEY): {"resourceCount": "3", "projectCount": 1, "cloudProducts": {"BigQuery": "3"}}
    }
    world.log.clear()
    await check(module_sandbox)
    checked = [entry for entry in world.log.entries if entry.service == "google"]
    assert {entry.status for entry in checked} == {"OK"}
    for entry in checked:
        assert (
            _document(entry.call, entry.request["_http"]["path"]).violations(entry.to_json()) == []
        )


def _document(call: str, path: str) -> Any:
    api = call.partition(".")[0]
    version = path.split("/")[1]
    return discovery(DOCUMENTS.get(api, f"{api}.{version}"))


def test_project_number_and_id_name_the_same_project(http: httpx.Client, stage: Stage) -> None:
    by_id, by_number = _get(http, f"/v3/{PROJECT}"), _get(http, f"/v3/projects/{NUMBER}")
    assert by_id == by_number
    assert (by_id["name"], by_id["parent"]) == (f"projects/{NUMBER}", FOLDER)


def test_an_unknown_project_is_denied_not_missing(http: httpx.Client, stage: Stage) -> None:
    """Google does not disclose to strangers whether a project exists."""
    response = http.get("/v3/projects/no-such-project")
    assert response.status_code == 403
    assert "may not exist" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("permission", "verb", "path"),
    [
        ("resourcemanager.projects.get", "GET", f"/v3/{PROJECT}"),
        ("resourcemanager.projects.get", "POST", f"/v1/{PROJECT}:getAncestry"),
        ("resourcemanager.projects.get", "GET", f"/v1/{PROJECT}/billingInfo"),
        ("resourcemanager.projects.getIamPolicy", "POST", f"/v3/{PROJECT}:getIamPolicy"),
        ("resourcemanager.folders.getIamPolicy", "POST", f"/v3/{FOLDER}:getIamPolicy"),
        ("resourcemanager.organizations.getIamPolicy", "POST", f"/v3/{ORGANIZATION}:getIamPolicy"),
        ("serviceusage.services.get", "GET", f"/v1/{PROJECT}/services/cloudkms.googleapis.com"),
        (
            "orgpolicy.policy.get",
            "GET",
            f"/v2/{PROJECT}/policies/gcp.resourceLocations:getEffectivePolicy",
        ),
        ("orgpolicy.customConstraints.list", "GET", f"/v2/{ORGANIZATION}/customConstraints"),
        (
            "accesscontextmanager.policies.list",
            "GET",
            f"/v1/accessPolicies?parent={ORGANIZATION}",
        ),
        (
            "accesscontextmanager.servicePerimeters.list",
            "GET",
            "/v1/accessPolicies/987654321/servicePerimeters",
        ),
        ("cloudkms.protectedResources.search", "GET", f"/v1/{KEY}/protectedResourcesSummary"),
    ],
)
def test_each_permission_can_be_denied(
    http: httpx.Client, stage: Stage, permission: str, verb: str, path: str
) -> None:
    assert http.request(verb, path).status_code == 200
    stage.deny(permission)
    response = http.request(verb, path)
    assert response.status_code == 403
    (detail,) = response.json()["error"]["details"]
    assert (detail["reason"], detail["metadata"]["permission"]) == (
        "IAM_PERMISSION_DENIED",
        permission,
    )


def test_an_api_that_is_off_says_so(http: httpx.Client, stage: Stage) -> None:
    service = "cloudbilling.googleapis.com"
    changed = http.patch("/_sandbox/google", json={"disabled_services": [service]})
    assert changed.status_code == 200
    (detail,) = http.get(f"/v1/{PROJECT}/billingInfo").json()["error"]["details"]
    assert detail["reason"] == "SERVICE_DISABLED"
    assert detail["metadata"] == {"service": service, "consumer": f"projects/{NUMBER}"}
    assert _get(http, f"/v1/{PROJECT}/services/{service}")["state"] == "DISABLED"


def test_an_unknown_state_is_refused(http: httpx.Client, stage: Stage) -> None:
    """A misspelt field must not be accepted as a change."""
    assert http.patch("/_sandbox/google", json={"disabled_service": []}).status_code == 400


def test_lists_come_in_pages_that_add_up(http: httpx.Client, stage: Stage) -> None:
    names = [f"{ORGANIZATION}/customConstraints/custom.c{number}" for number in range(7)]
    stage.world.google.custom_constraints = [{"name": name} for name in names]
    path, seen, token = f"/v2/{ORGANIZATION}/customConstraints", [], ""
    while True:
        page = _get(http, path, pageSize="3", pageToken=token)
        seen += [one["name"] for one in page["customConstraints"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert seen == names
    assert http.get(path, params={"pageToken": "x"}).status_code == 400
