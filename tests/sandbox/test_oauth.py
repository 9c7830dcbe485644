"""Workload identity and Google's own token endpoints, by google-auth where possible."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import google.auth.transport.requests
import httpx
import pytest
from google.auth.exceptions import RefreshError
from google.oauth2 import service_account

from sandbox.identities import GOOGLE_ISSUER, SigningKey
from sandbox.seed import AUDIENCE, FEDERATION_RULE, SERVICE_ACCOUNT
from tests.support.admin import Admin

FETCH = """
import sys
from google.auth.transport.requests import Request
from google.oauth2 import id_token
sys.stdout.write(id_token.fetch_id_token(Request(), sys.argv[1]))
"""
"""Run in its own process: google-auth reads the environment once, when it is imported."""
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def _identity_token(admin: Admin, audience: str = AUDIENCE) -> str:
    credentials = service_account.IDTokenCredentials.from_service_account_file(  # type: ignore[no-untyped-call]
        admin.sandbox.google_credentials_file, target_audience=audience
    )
    credentials.refresh(google.auth.transport.requests.Request())
    return str(credentials.token)


def _exchange(admin: Admin, assertion: str, /, **changes: Any) -> httpx.Response:
    body = {
        "grant_type": JWT_BEARER,
        "assertion": assertion,
        "federation_rule_id": FEDERATION_RULE,
        "organization_id": admin.sandbox.organization_id,
        "service_account_id": SERVICE_ACCOUNT,
    } | changes
    return httpx.post(f"{admin.sandbox.http}/v1/oauth/token", json=body, trust_env=False)


def _me(admin: Admin, headers: dict[str, str]) -> int:
    headers = headers | {"anthropic-version": "2023-06-01"}
    url = f"{admin.sandbox.http}/v1/organizations/me"
    return httpx.get(url, headers=headers, trust_env=False).status_code


def test_a_google_identity_token_buys_a_token_for_the_admin_api(admin: Admin) -> None:
    granted = _exchange(admin, _identity_token(admin), workspace_id="default").json()
    assert (granted["token_type"], granted["scope"]) == ("Bearer", "org:admin")
    assert 60 <= granted["expires_in"] <= 3600
    assert _me(admin, {"authorization": f"Bearer {granted['access_token']}"}) == 200
    assert _me(admin, {"x-api-key": granted["access_token"]}) == 401


def test_the_token_expires_by_the_sandbox_s_clock(admin: Admin) -> None:
    granted = _exchange(admin, _identity_token(admin)).json()
    headers = {"authorization": f"Bearer {granted['access_token']}"}
    admin.control.advance(granted["expires_in"] - 5)
    assert _me(admin, headers) == 200
    admin.control.advance(10)
    assert _me(admin, headers) == 401


def test_a_short_assertion_buys_a_short_token(admin: Admin) -> None:
    """The token is valid for twice the assertion's remaining time, but at least a minute."""
    for remaining, expected in ((300, 600), (10, 60)):
        granted = _exchange(admin, _signed(admin, exp=int(time.time()) + remaining)).json()
        assert expected - 5 <= granted["expires_in"] <= expected


def _signed(admin: Admin, key: SigningKey | None = None, **changes: Any) -> str:
    identity, now = admin.world.identities.onboarding, int(time.time())
    claims = {
        "iss": GOOGLE_ISSUER,
        "aud": AUDIENCE,
        "sub": identity.subject,
        "email": identity.email,
        "email_verified": True,
        "iat": now - 10,
        "exp": now + 600,
    }
    return (key or admin.world.identities.key).sign(claims | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://elsewhere.example"},
        {"sub": "42"},
        {"email": "someone@example.com"},
        {"email_verified": False},
        {"iss": "https://issuer.example"},
        {"exp": 1_700_000_000},
    ],
)
def test_every_wrong_claim_is_refused_alike(admin: Admin, changes: dict[str, Any]) -> None:
    """Each gets the same 401, so that a caller learns nothing."""
    assert _exchange(admin, _signed(admin)).status_code == 200
    refused = _exchange(admin, _signed(admin, **changes))
    assert refused.status_code == 401
    assert refused.json()["error"] == {
        "type": "authentication_error",
        "message": "Authentication failed",
    }


def test_a_signature_by_another_key_is_refused(admin: Admin) -> None:
    assert _exchange(admin, _signed(admin, SigningKey())).status_code == 401
    assert _exchange(admin, "no.token.atall").status_code == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"federation_rule_id": "fdrl_01Another"},
        {"service_account_id": "svac_01Another"},
        {"organization_id": "00000000-1111-4222-8333-444455556666"},
    ],
)
def test_identifiers_of_others_are_refused_alike(admin: Admin, changes: dict[str, str]) -> None:
    assert _exchange(admin, _signed(admin), **changes).status_code == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"federation_rule_id": "rule"},
        {"service_account_id": None},
        {"organization_id": "org_01SandboxAcme"},
        {"workspace_id": "somewhere"},
        {"grant_type": "password"},
        {"assertion": "x" * (16 * 1024 + 1)},
    ],
)
def test_malformed_identifiers_are_named(admin: Admin, changes: dict[str, Any]) -> None:
    refused = _exchange(admin, _signed(admin), **changes)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith(next(iter(changes)))


def test_the_credentials_file_buys_access_tokens_that_name_its_account(admin: Admin) -> None:
    credentials = service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
        admin.sandbox.google_credentials_file,
        scopes=["https://www.googleapis.com/auth/cloudkms"],
    )
    credentials.refresh(google.auth.transport.requests.Request())
    url = f"{admin.sandbox.http}/v1/projects/acme-kms-prod/locations"
    headers = {"authorization": f"Bearer {credentials.token}"}
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
    entries = admin.control.log()
    assert [one["call"] for one in entries] == ["google.token", "ListLocations"]
    assert entries[0]["service"] == "oauth"
    assert entries[1]["caller"] == "onboarding"


def test_google_s_endpoint_refuses_what_the_file_did_not_sign(admin: Admin) -> None:
    stranger = SigningKey().sign({"iss": "x@example.com", "exp": int(time.time()) + 60})
    for form, error in (
        ({"grant_type": JWT_BEARER, "assertion": stranger}, "invalid_grant"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({}, "unsupported_grant_type"),
    ):
        answer = httpx.post(f"{admin.sandbox.http}/token", data=form, trust_env=False)
        assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_a_machine_gets_its_identity_from_the_metadata_server(admin: Admin) -> None:
    host = admin.sandbox.http.removeprefix("http://")
    found = subprocess.run(
        [sys.executable, "-c", FETCH, AUDIENCE],
        env={"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert _exchange(admin, found.stdout).status_code == 200


def test_neither_assertion_nor_token_is_logged(admin: Admin) -> None:
    assertion = _identity_token(admin)
    granted = _exchange(admin, assertion).json()["access_token"]
    requests = [one["request"] for one in admin.control.log()]
    assert assertion not in str(requests)
    assert granted not in str(requests)


@pytest.mark.parametrize(("seconds", "accepted"), [(-600, False), (60, True), (4500, False)])
def test_google_s_endpoint_looks_at_an_assertion_by_its_own_clock(
    admin: Admin, seconds: int, accepted: bool
) -> None:
    """With a caller's wrong clock the error names the times: google-auth-library-nodejs#129."""
    admin.control.advance(seconds)
    if accepted:
        assert _identity_token(admin)
        return
    with pytest.raises(RefreshError, match="Check your iat and exp values"):
        _identity_token(admin)
