"""The sandbox's Admin API, compared with example exchanges that were written before it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cmek.anthropic_identity import ROLES
from sandbox.admin.state import (
    DataResidency,
    FederationRule,
    GcpConfig,
    StoredCredential,
    StoredExternalKey,
    StoredWorkspace,
)
from sandbox.seed import AUDIENCE
from tests.support.admin import KEY_RING, Admin, running_admin

EXAMPLES = json.loads((Path(__file__).parent / "admin_examples.json").read_text())
KEY_NAME = f"{KEY_RING}/cryptoKeys/claude-prod"
KEY, OTHER_KEY = "ekey_01QmTz8VbHn4KfXyRw2PdLcJ", "ekey_01QnAa7YcGm3JeWxSv5RbTkH"
FRESH, ATTACHED = "wrkspc_01HxPv6KsDq9TnBzMw3YfLrE", "wrkspc_01HyRw7LtEr2UpCaNx4ZgMsF"
CODED_FAULTS = {
    "rate_limited",
    "server_error_do_not_retry",
    "server_error_retry",
    "overloaded",
    "gateway_timeout",
    "billing",
    "sandbox_egress_restricted",
    "workspace_update_external_key_changed",
}
"""Answers that no state of the sandbox causes; the fault script sends them."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Admin]:
    """One sandbox; `admin` gives each example the organization that the examples name."""
    with running_admin(minimal=True) as admin:
        admin.crypto_key()
        yield admin


@pytest.fixture
def admin(sandbox: Admin) -> Admin:
    """The organization of the examples, in the state before any of them ran."""
    state, world = sandbox.world.admin, sandbox.world
    for name, field in type(world.switches).model_fields.items():
        setattr(world.switches, name, field.default)
    world.faults.clear()
    sandbox.bind(KEY_NAME, ROLES)
    state.credentials["sk-ant-admin01-EXAMPLE-NOT-A-REAL-KEY"] = StoredCredential(
        kind="admin_key", id="apikey_01ExampleAdminKey"
    )
    state.external_keys.clear()
    for place, (key, name) in enumerate(((KEY, "claude-prod"), (OTHER_KEY, "claude-sandbox"))):
        state.external_keys[key] = _external_key(key, place + 1, name)
    state.last_sequence = 2
    state.workspaces.clear()
    _workspace(state.workspaces, FRESH, "payments-prod", tags={"old-tag": "x"})
    _workspace(state.workspaces, ATTACHED, "search-prod", external_key_id=KEY)
    _workspace(state.workspaces, "wrkspc_01GaBc3DeFgHj4KmNpQrStUv", "Default", is_default=True)
    _workspace(
        state.workspaces,
        "wrkspc_01OLDteamQ8rV3nKcXy6ZbTd",
        "old-team",
        archived_at="2026-10-01T00:00:00.000000Z",
    )
    state.federation_rules = [_rule(sandbox)]
    return sandbox


def _external_key(key: str, sequence: int, name: str) -> StoredExternalKey:
    ring = KEY_NAME.rpartition("/")[0]
    return StoredExternalKey(
        id=key,
        sequence=sequence,
        created_at="2026-11-20T14:02:11.305918Z",
        updated_at="2026-11-20T14:02:11.305918Z",
        display_name=name,
        geo="us",
        provider_config=GcpConfig(type="gcp", key_name=f"{ring}/{name}"),
        user_profile_id=None,
    )


def _workspace(into: dict[str, StoredWorkspace], key: str, name: str, **fields: Any) -> None:
    into[key] = StoredWorkspace(
        id=key,
        name=name,
        created_at="2026-11-18T09:15:42.118204Z",
        compartment_id="a4e0b7d2-5c13-4f69-8e2a-91d7c6b3f058",
        data_residency=DataResidency(allowed_inference_geos=["us"], default_inference_geo="us"),
        **fields,
    )


def _rule(admin: Admin) -> FederationRule:
    identity = admin.world.identities.onboarding
    return FederationRule(
        id="fdrl_01ExampleRule",
        service_account_id="svac_01ExampleAccount",
        audience=AUDIENCE,
        subject=identity.subject,
        email=identity.email,
        lifetime_seconds=600,
    )


def _ordinary_key(admin: Admin) -> None:
    for credential in admin.world.admin.credentials.values():
        if credential.id == "apikey_01ExampleAdminKey":
            credential.kind = "workspace_key"


def _other_profile(admin: Admin) -> None:
    admin.world.admin.external_keys[KEY].user_profile_id = "uprof_01Other"


def _switch(**changes: object) -> Callable[[Admin], None]:
    def set_switches(admin: Admin) -> None:
        admin.control.switches(**changes)

    return set_switches


def _stripped(admin: Admin) -> None:
    admin.bind(KEY_NAME, ())


def _unlabelled(admin: Admin) -> None:
    ring = KEY_NAME.rpartition("/cryptoKeys/")[0]
    if f"{ring}/cryptoKeys/bare" not in admin.world.kms.crypto_keys:
        admin.crypto_key("bare", labels={})
    config = admin.world.admin.external_keys[KEY].provider_config
    assert isinstance(config, GcpConfig)
    config.key_name = f"{ring}/cryptoKeys/bare"


PREPARE: dict[str, Callable[[Admin], None]] = {
    "organization_me_wrong_scope": _ordinary_key,
    "external_key_create_duplicate_maybe": _switch(duplicate_external_key="conflict"),
    "external_key_create_cmek_not_enabled_maybe": _switch(cmek_enabled=False),
    "external_key_delete_in_policy": _switch(workspace_policy_keys=[KEY]),
    "external_key_validate_failure_permission": _stripped,
    "external_key_validate_failure_label": _unlabelled,
    "external_key_validate_failure_timeout": _switch(validation_times_out=True),
    "workspace_update_external_key_validation_failed": _stripped,
    "workspace_update_external_key_validation_timed_out": _switch(validation_times_out=True),
    "workspace_update_key_profile_mismatch": _other_profile,
    "workspace_update_workspace_policy_violation": _switch(workspace_policy_keys=[]),
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one["name"])
def test_an_answer_has_the_shape_of_the_documented_example(
    admin: Admin, example: dict[str, Any]
) -> None:
    if prepare := PREPARE.get(example["name"]):
        prepare(admin)
    if example["name"] in CODED_FAULTS:
        _script(admin, example)
    response = _replay(admin, example)
    expected = example["response"]
    assert response.status_code == expected["status"], response.text
    assert response.headers["request-id"].startswith("req_")
    assert response.headers["anthropic-organization-id"] == admin.sandbox.organization_id
    for name, value in expected["headers"].items():
        assert response.headers[name] == value
    body = response.json()
    _assert_same_shape(body, expected["body"], example["name"])
    if expected["status"] != 200:
        assert body["error"]["type"] == expected["body"]["error"]["type"]
        assert body["error"].get("details") == expected["body"]["error"].get("details")
    if "request_id" in body:
        assert body["request_id"] == response.headers["request-id"]


def _replay(admin: Admin, example: dict[str, Any]) -> httpx.Response:
    asked = example["request"]
    query, body = dict(asked["query"]), asked["body"]
    if "page" in query:
        first = admin.http.get(asked["path"], params={"limit": "1"}).json()
        query["page"] = first["next_page"]
    if example["name"].startswith("oauth"):
        audience = "https://elsewhere.example" if "denied" in example["name"] else AUDIENCE
        identities = admin.world.identities
        assertion = identities.identity_token(identities.onboarding, audience)
        body = body | {"assertion": assertion}
    return httpx.request(
        asked["method"],
        admin.sandbox.http + asked["path"],
        params=query,
        headers=asked["headers"],
        json=body,
        trust_env=False,
    )


def _script(admin: Admin, example: dict[str, Any]) -> None:
    expected = example["response"]
    error = expected["body"]["error"]
    admin.control.fault(
        "*",
        status=expected["status"],
        message=error["message"],
        error_code=error.get("details", {}).get("error_code"),
        headers=expected["headers"],
    )


def _assert_same_shape(got: Any, expected: Any, where: str) -> None:
    if got is None or expected is None:
        return
    if where.endswith(".allowed_inference_geos"):
        assert got == "unrestricted" or isinstance(got, list)
        return
    assert type(got) is type(expected), f"{where}: {got!r} instead of {expected!r}"
    if isinstance(expected, dict) and not where.endswith(".tags"):
        assert got.keys() == expected.keys(), where
        for name, value in expected.items():
            _assert_same_shape(got[name], value, f"{where}.{name}")
    if isinstance(expected, list) and expected:
        assert got, f"{where}: empty"
        for place, item in enumerate(got):
            _assert_same_shape(item, expected[0], f"{where}[{place}]")
