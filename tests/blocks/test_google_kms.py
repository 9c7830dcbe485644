"""The GoogleKms block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.auth.compute_engine import _metadata
from google.auth.credentials import Credentials
from google.cloud import kms_v1
from prefect_gcp import GcpCredentials
from pydantic import ValidationError

from blocks.google_kms import GoogleKms, service_account_key
from cmek.addresses import EndpointError
from cmek.gcp.errors import GoogleApiError
from tests.support.clients import Rig
from tests.support.google import BAD_KEY_FILES, bad_key_file

pytestmark = pytest.mark.anyio


def google_key(rig: Rig, **more: Any) -> GcpCredentials:
    key = json.loads(Path(rig.sandbox.google_credentials_file).read_text())
    return GcpCredentials(service_account_info=key | more)


def block_for(rig: Rig, **fields: Any) -> GoogleKms:
    nested = google_key(rig)
    local = {"endpoint": rig.sandbox.grpc, "checks_endpoint": rig.sandbox.http}
    return GoogleKms(**({"gcp_credentials": nested} | local | fields))


async def test_the_check_reads_a_location_as_the_nested_service_account(rig: Rig) -> None:
    """A token is fetched from the key's own endpoint and reaches Cloud KMS."""
    said = await block_for(rig).check()
    assert rig.sandbox.project_id in said
    assert "cmek@acme-kms-prod.iam.gserviceaccount.com" in said
    assert rig.calls(service="kms") == ["GetLocation"]
    assert rig.control.log(service="kms")[0]["caller"] == "onboarding"


async def test_the_check_says_what_is_wrong(rig: Rig) -> None:
    rig.control.switches(kms_api_enabled=False)
    try:
        with pytest.raises(GoogleApiError, match="gcloud services enable"):
            await block_for(rig).check()
    finally:
        rig.control.switches(kms_api_enabled=True)


async def test_a_revoked_key_is_reported_by_the_check(rig: Rig) -> None:
    """When the token endpoint refuses, the error names the block."""
    rig.control.fault("google.token", status=400, body={"error": "invalid_grant"}, times=9)
    with pytest.raises(GoogleApiError, match="GcpCredentials of the GoogleKms block"):
        await block_for(rig).check()


@pytest.mark.parametrize("empty", [None, GcpCredentials.model_construct()], ids=["none", "empty"])
async def test_a_sandbox_never_sees_application_default_credentials(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, empty: GcpCredentials | None
) -> None:
    """On loopback a block without a key has no credentials, whatever the environment has."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", rig.sandbox.google_credentials_file)
    block = block_for(rig, gcp_credentials=empty, quota_project=rig.sandbox.project_id)
    assert block.credentials() is None
    await block.check()
    assert rig.control.log(service="kms")[0]["caller"] == "administrator"


async def test_application_default_credentials_are_used_for_google(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", rig.sandbox.google_credentials_file)
    credentials = GoogleKms().credentials()
    assert isinstance(credentials, Credentials)


async def test_the_quota_project_goes_to_cloud_kms_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, calls with a person's login fail: the API is off in a project of Google's."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", rig.sandbox.google_credentials_file)
    handed: list[Any] = []
    monkeypatch.setattr(
        kms_v1,
        "KeyManagementServiceAsyncClient",
        lambda **given: handed.append(given["credentials"]),
    )
    GoogleKms(quota_project="another-project").get_client()
    assert [one.quota_project_id for one in handed] == ["another-project"]


@pytest.mark.parametrize("name", BAD_KEY_FILES)
def test_a_file_that_is_no_key_file_is_reported_by_our_error(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """This machine's file, or the nested block's, which may have changed since it was loaded."""
    file = bad_key_file(tmp_path, name)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    nested = GcpCredentials.model_construct(service_account_file=file, service_account_info=None)
    block = GoogleKms()
    for credentials in (None, nested):
        block.gcp_credentials = credentials
        with pytest.raises(GoogleApiError) as caught:
            block.credentials()
        assert "CANARY" not in f"{caught.value} {caught.value!r}"


async def test_no_credentials_at_all_say_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_metadata, "is_on_gce", lambda **_: False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(GoogleApiError, match="application-default login"):
        GoogleKms().get_client()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"endpoint": "https://cloudkms.googleapis.com"}, "HOST:PORT"),
        ({"endpoint": "not an address"}, "HOST:PORT"),
        ({"checks_endpoint": "http://checks.example.com"}, "plain text"),
        ({"checks_endpoint": "checks.example.com"}, "https://"),
        ({"endpoint": "127.0.0.1:1"}, "both on this machine"),
        ({"checks_endpoint": "http://127.0.0.1:1"}, "both on this machine"),
        # pragma: allowlist nextline secret
        ({"gcp_credentials": {"service_account_info": {"private_key": "CANARY"}}}, "client_email"),
    ],
)
async def test_a_wrong_block_says_what_is_wrong_and_keeps_its_key(
    fields: dict[str, Any], problem: str
) -> None:
    """The server stores anything; the block checks itself when it is loaded."""
    with pytest.raises(ValidationError, match=problem) as caught:
        GoogleKms(**fields)
    assert "CANARY" not in f"{caught.value} {caught.value!r}"


def test_a_changed_address_does_not_get_the_stored_key(rig: Rig) -> None:
    """This covers Cloud KMS, the checks, and the key's own token endpoint."""
    elsewhere = google_key(rig, token_uri="https://token.example/t")
    for block in (
        GoogleKms(endpoint="kms.example:443"),
        GoogleKms(checks_endpoint="https://googleapis.example"),
        GoogleKms(gcp_credentials=elsewhere),
    ):
        with pytest.raises(EndpointError, match="not sent there"):
            block.credentials()


async def test_a_key_has_no_say_about_where_its_signature_goes(rig: Rig) -> None:
    """google-auth sends a token that the key signed to hosts of its `universe_domain`."""
    block = block_for(rig, gcp_credentials=google_key(rig, universe_domain="evil.example"))
    with pytest.raises(GoogleApiError, match="universe_domain"):
        block.credentials()


async def test_only_the_checked_fields_of_a_key_are_used(rig: Rig) -> None:
    """So no release of google-auth can make use of another field."""
    more = dict.fromkeys(("token_url", "trust_boundary", "iam_endpoint"), "https://evil.example")
    nested = google_key(rig, **more)
    known = service_account_key(nested)
    assert known is not None
    assert "evil" not in json.dumps(known)
    await block_for(rig, gcp_credentials=nested).check()
