"""Who may call the Admin API, and what every answer has."""

from __future__ import annotations

import httpx
import pytest

from sandbox.seed import ADMIN_KEY, EXPIRED_ADMIN_KEY, WORKSPACE_KEY
from tests.support.admin import Admin

VERSION = {"anthropic-version": "2023-06-01"}
ME = "/v1/organizations/me"


def _get(admin: Admin, path: str, headers: dict[str, str]) -> httpx.Response:
    return httpx.get(admin.sandbox.http + path, headers=headers, trust_env=False)


@pytest.mark.parametrize(
    "headers", [{"x-api-key": ADMIN_KEY}, {"authorization": f"Bearer {ADMIN_KEY}"}]
)
@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])
def test_an_admin_key_works_in_both_headers_and_with_both_versions(
    admin: Admin, headers: dict[str, str], version: str
) -> None:
    """The documentation and the official SDK send it in different headers."""
    response = _get(admin, ME, headers | {"anthropic-version": version})
    assert response.json() == {
        "id": admin.sandbox.organization_id,
        "type": "organization",
        "name": "Acme",
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": "sk-ant-admin01-SOMEONE-ELSES-NOT-A-REAL-KEY"}, 401),
        ({"x-api-key": EXPIRED_ADMIN_KEY}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": f"Basic {ADMIN_KEY}"}, 401),
        ({"x-api-key": WORKSPACE_KEY}, 403),
    ],
)
def test_any_other_credential_is_refused(
    admin: Admin, headers: dict[str, str], status: int
) -> None:
    for path in (ME, "/v1/organizations/workspaces", "/v1/organizations/external_keys/ekey_01None"):
        response = _get(admin, path, headers | VERSION)
        assert response.status_code == status
        assert response.json()["error"]["type"] == (
            "authentication_error" if status == 401 else "permission_error"
        )


@pytest.mark.parametrize("version", [{}, {"anthropic-version": "2022-01-01"}])
def test_the_version_header_is_required_and_checked(admin: Admin, version: dict[str, str]) -> None:
    response = _get(admin, ME, {"x-api-key": ADMIN_KEY} | version)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("anthropic-version")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "v1/organizations/nothing"), ("PATCH", "v1/organizations/workspaces/wrkspc_01X")],
)
def test_an_unknown_path_or_method_answers_in_the_api_s_own_form(
    admin: Admin, method: str, path: str
) -> None:
    response = admin.http.request(method, f"/{path}")
    assert response.status_code == 404
    assert response.json()["request_id"] == response.headers["request-id"]


def test_a_body_that_is_no_json_object_is_refused(admin: Admin) -> None:
    for body in (b"{", b"[]", b'"x"', b"\xff"):
        response = admin.http.post("/v1/organizations/workspaces", content=body)
        assert response.status_code == 400, body


def test_no_credential_appears_in_the_log(admin: Admin) -> None:
    _get(admin, ME, {"x-api-key": ADMIN_KEY} | VERSION)
    entries = admin.control.log(call="organization.me")
    assert entries[-1]["caller"].startswith("admin_key:apikey_01")
    assert ADMIN_KEY not in str(entries)


def test_the_log_tells_writes_from_reads_and_what_took_effect(admin: Admin) -> None:
    """A validation is a POST, but not a write; a refused write had no effect."""
    admin.control.clear_log()
    key = admin.register()
    admin.call("POST", f"external_keys/{key}/validate")
    admin.attach(admin.fresh(), key)
    admin.ok("GET", "workspaces")
    rows = [
        (one["call"], one["write"], one["effect"], one["status"])
        for one in admin.control.log(service="admin")
    ]
    assert rows == [
        ("external_keys.create", True, True, "OK"),
        ("external_keys.validate", False, True, "OK"),
        ("workspaces.update", True, False, "400"),
        ("workspaces.list", False, True, "OK"),
    ]
    attach = admin.control.log(call="workspaces.update")[0]
    assert attach["resource"] == admin.fresh()
    assert attach["request"]["external_key_id"] == key
