"""No proxy sees what goes to this machine, whichever client of the product sends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest
from google.auth.exceptions import TransportError
from pydantic import SecretStr

from blocks.anthropic_admin import AnthropicAdmin
from cmek.gcp._transport import TokenRequest
from cmek.gcp.project_apis import GoogleReads
from tests.blocks.test_anthropic_admin import FEDERATION, google_key
from tests.blocks.test_google_kms import block_for
from tests.support.clients import Rig
from tests.support.web_server import BYPASS_VARIABLES, recording_proxy


@pytest.fixture
def proxied(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What a proxy for all addresses has seen, in an environment without exceptions."""
    with recording_proxy() as (environment, seen):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name in BYPASS_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        yield seen


async def admin_api(rig: Rig) -> None:
    """Call the Admin API with an Admin API key."""
    key = SecretStr(rig.sandbox.admin_key)
    await AnthropicAdmin(admin_key=key, base_url=rig.sandbox.http).check()


async def token_exchange(rig: Rig) -> None:
    """Get Google's ID token, exchange it, and read with the new token."""
    block = AnthropicAdmin(base_url=rig.sandbox.http, gcp_credentials=google_key(rig), **FEDERATION)
    await block.check()


async def machine_identity(rig: Rig) -> None:
    """Do the same with the identity of the machine."""
    await AnthropicAdmin(base_url=rig.sandbox.http, **FEDERATION).check()


async def cloud_kms(rig: Rig) -> None:
    """Call Cloud KMS over gRPC, after fetching a token."""
    await block_for(rig).check()


async def google_checks(rig: Rig) -> None:
    """Call another Google API, after fetching a token."""
    reads = GoogleReads(block_for(rig).credentials(), base_url=rig.sandbox.http)
    try:
        await reads.project(rig.sandbox.project_id)
    finally:
        await reads.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "client", [admin_api, token_exchange, machine_identity, cloud_kms, google_checks]
)
async def test_no_proxy_sees_what_goes_to_this_machine(
    rig: Rig,
    proxied: list[bytes],
    client: Callable[[Rig], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sees neither a request nor the token exchange before it, whatever the environment has."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", rig.sandbox.google_credentials_file)
    await client(rig)
    assert proxied == []
    assert rig.control.log()


def test_the_same_environment_does_name_a_proxy(rig: Rig, proxied: list[bytes]) -> None:
    """So the test above can fail: a plain client uses it, as does Google's own token request."""
    with pytest.raises(httpx.TransportError):
        httpx.get(rig.sandbox.http, timeout=5)
    assert len(proxied) == 1
    with pytest.raises(TransportError):
        TokenRequest()("https://oauth2.googleapis.com/token", method="POST", timeout=5)
    assert proxied[-1].startswith(b"CONNECT oauth2.googleapis.com:443")
