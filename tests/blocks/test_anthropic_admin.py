"""The AnthropicAdmin block."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect_gcp import GcpCredentials
from pydantic import SecretStr, ValidationError

from blocks.anthropic_admin import AnthropicAdmin
from cmek.addresses import EndpointError
from cmek.anthropic.errors import AuthenticationError
from sandbox import seed
from tasks.clients import BlockMissingError, admin_client, close_clients
from tests.support.clients import Rig
from tests.support.google import BAD_KEY_FILES, bad_key_file

pytestmark = pytest.mark.anyio

CANARY = "sk-ant-admin01-FAKE-CANARY"
FEDERATION: dict[str, Any] = {
    "federation_rule_id": seed.FEDERATION_RULE,
    "organization_id": seed.ORGANIZATION_ID,
    "service_account_id": seed.SERVICE_ACCOUNT,
}


def google_key(rig: Rig, **more: str) -> GcpCredentials:
    key = json.loads(Path(rig.sandbox.google_credentials_file).read_text())
    return GcpCredentials(service_account_info=key | more)


async def test_the_check_says_whose_credential_it_is(rig: Rig) -> None:
    block = AnthropicAdmin(admin_key=SecretStr(rig.sandbox.admin_key), base_url=rig.sandbox.http)
    said = await block.check()
    assert "Acme" in said
    assert rig.sandbox.organization_id in said
    assert rig.calls() == ["organization.me", "external_keys.list"]


async def test_the_check_says_what_is_wrong(rig: Rig) -> None:
    block = AnthropicAdmin(admin_key=SecretStr(CANARY), base_url=rig.sandbox.http)
    with pytest.raises(AuthenticationError, match="AnthropicAdmin block") as caught:
        await block.check()
    assert CANARY not in f"{caught.value} {caught.value!r} {block} {block!r}"


async def test_a_google_identity_needs_no_static_secret(rig: Rig) -> None:
    """The service account's ID token is exchanged for a short-lived token, which calls carry."""
    block = AnthropicAdmin(base_url=rig.sandbox.http, gcp_credentials=google_key(rig), **FEDERATION)
    assert "Acme" in await block.check()
    assert rig.calls() == ["google.token", "oauth.token", "organization.me", "external_keys.list"]


async def test_the_machines_own_identity_is_used_without_a_key(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it comes from a service-account file that the environment names."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", rig.sandbox.google_credentials_file)
    block = AnthropicAdmin(base_url=rig.sandbox.http, **FEDERATION)
    assert "Acme" in await block.check()
    assert rig.calls()[:2] == ["google.token", "oauth.token"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "give an Admin API key, or all of"),
        ({"federation_rule_id": "fdrl_01"}, "missing: admin_key, or organization_id"),
        ({"admin_key": CANARY, "federation_rule_id": "fdrl_01"}, "not both"),
        ({"admin_key": CANARY + "\n\nx"}, "copy it again"),
        ({"admin_key": CANARY, "base_url": "http://api.example.com"}, "plain text"),
        ({"admin_key": CANARY, "base_url": "api.example.com"}, "https://"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
async def test_a_wrong_block_says_what_is_wrong_and_keeps_its_key(
    fields: dict[str, Any], problem: str
) -> None:
    """The server stores anything; the block checks itself when it is loaded."""
    with pytest.raises(ValidationError, match=problem) as caught:
        AnthropicAdmin(**fields)
    assert CANARY not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize("loads", [True, False], ids=["when loaded", "when used"])
@pytest.mark.parametrize("name", BAD_KEY_FILES)
async def test_a_key_file_that_can_not_sign_names_the_block(
    name: str, loads: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error comes before anything is sent; the nested block may find the fault first."""
    file = bad_key_file(tmp_path, name)

    async def load(_: str) -> AnthropicAdmin:
        block = AnthropicAdmin(**FEDERATION)
        make = GcpCredentials if loads else GcpCredentials.model_construct
        block.gcp_credentials = make(service_account_file=file, service_account_info=None)
        return block

    monkeypatch.setattr(AnthropicAdmin, "aload", load)
    with pytest.raises(BlockMissingError, match="block anthropic-admin/wif can't be used"):
        await admin_client("wif")
    await close_clients()


async def test_a_token_endpoint_in_plain_text_is_refused() -> None:
    """Otherwise a service-account key could have its assertion sent anywhere."""
    key = {
        "type": "service_account",
        "client_email": "a@example.com",
        "token_uri": "http://tokens.example.com",
        "private_key": "not-a-key",  # pragma: allowlist secret
    }
    block = AnthropicAdmin(**FEDERATION)
    block.gcp_credentials = GcpCredentials.model_construct(
        service_account_info=GcpCredentials.model_fields[
            "service_account_info"
        ].annotation.__args__[0](key)
    )
    with pytest.raises(ValueError, match="plain text"):
        block.get_client()


async def test_a_google_key_has_no_say_about_where_its_signature_goes(rig: Rig) -> None:
    """google-auth sends a bearer token that the key signed to hosts of its `universe_domain`."""
    elsewhere = google_key(rig, universe_domain="evil.example")
    with pytest.raises(ValueError, match="universe_domain"):
        AnthropicAdmin(**FEDERATION, gcp_credentials=elsewhere).get_client()


async def test_a_changed_address_does_not_get_the_stored_key() -> None:
    """A change of a block's address keeps its secret in it; the client is not even made."""
    block = AnthropicAdmin(admin_key=SecretStr(CANARY), base_url="https://api.anthropic.example")
    with pytest.raises(EndpointError, match=r"api\.anthropic\.example") as refused:
        block.get_client()
    assert CANARY not in str(refused.value)
