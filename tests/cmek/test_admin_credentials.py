"""Admin keys, and a Google identity exchanged for a short-lived token."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from google.auth.compute_engine import _metadata
from google.auth.exceptions import RefreshError
from pydantic import SecretStr

from cmek.anthropic.auth import AccessToken, AdminKey, WorkloadIdentity
from cmek.anthropic.errors import (
    AdminApiError,
    AdminResponseError,
    AuthenticationError,
    GoogleIdentityError,
    PermissionDeniedError,
)
from cmek.gcp._transport import id_token_provider
from sandbox import seed
from tests.support.clients import Rig
from tests.support.google import BAD_KEY_FILES, bad_key_file

pytestmark = pytest.mark.anyio

CANARY = "sk-ant-admin01-FAKE-CANARY"


def identity(rig: Rig, **changes: Any) -> WorkloadIdentity:
    """The sandbox's federation rule, with the Google identity that it expects."""
    identities = rig.sandbox.world.identities

    def id_token(audience: str) -> str:
        return identities.identity_token(identities.onboarding, audience)

    fields: dict[str, Any] = {
        "federation_rule_id": seed.FEDERATION_RULE,
        "organization_id": UUID(rig.sandbox.organization_id),
        "service_account_id": seed.SERVICE_ACCOUNT,
        "audience": seed.AUDIENCE,
        "id_token": id_token,
    }
    return WorkloadIdentity(**(fields | changes))


def tokens(rig: Rig) -> set[str]:
    """The federated tokens that the sandbox has handed out."""
    return {
        secret
        for secret, credential in rig.sandbox.world.admin.credentials.items()
        if credential.kind == "federated_token"
    }


async def test_a_google_identity_is_exchanged_once(rig: Rig) -> None:
    """The first call gets a token, the following ones use it, and no repr shows it."""
    credential = identity(rig)
    async with rig.admin(credential) as api:
        assert (await api.organization.me()).name == "Acme"
        await api.workspaces.retrieve(rig.fresh_workspace())
    assert rig.calls() == ["oauth.token", "organization.me", "workspaces.retrieve"]
    assert not any(token in repr(credential) for token in tokens(rig))


async def test_a_refused_token_is_renewed_once(rig: Rig) -> None:
    """The service has revoked it: one new exchange, then the call succeeds."""
    async with rig.admin(identity(rig)) as api:
        await api.organization.me()
        for token in tokens(rig):
            del rig.sandbox.world.admin.credentials[token]
        rig.control.clear_log()
        assert (await api.organization.me()).name == "Acme"
    assert rig.calls() == ["organization.me", "oauth.token", "organization.me"]


async def test_a_token_that_stays_refused_ends_in_an_error(rig: Rig) -> None:
    rig.control.fault("organization.me", status=401, times=9)
    async with rig.admin(identity(rig)) as api:
        with pytest.raises(AuthenticationError):
            await api.organization.me()
    assert rig.calls().count("organization.me") == 2


async def test_attach_is_not_sent_again_with_a_new_token(rig: Rig) -> None:
    """Attach is sent once; the next call has the new token."""
    async with rig.admin(identity(rig)) as api:
        await api.organization.me()
        rig.control.clear_log()
        rig.control.fault("workspaces.update", status=401)
        with pytest.raises(AuthenticationError):
            await api.workspaces.update(rig.fresh_workspace(), external_key_id="ekey_01Some")
        assert rig.calls() == ["workspaces.update"]
        await api.organization.me()
    assert rig.calls() == ["workspaces.update", "oauth.token", "organization.me"]


async def test_the_last_check_comes_after_the_token(rig: Rig) -> None:
    """A token may take a minute to get, so what was checked before it may be true no longer."""
    asked: list[list[str]] = []

    def refuse() -> None:
        asked.append(rig.calls())
        raise TimeoutError("too late")

    async with rig.admin(identity(rig)) as api:
        for attempt in (
            api.workspaces.update(
                rig.fresh_workspace(), external_key_id="ekey_01Some", last_check=refuse
            ),
            api.workspaces.create("new", "ekey_01Some", last_check=refuse),
        ):
            with pytest.raises(TimeoutError, match="too late"):
                await attempt
    assert asked == [["oauth.token"]] * 2
    assert rig.calls() == ["oauth.token"]


async def test_a_token_is_renewed_before_it_expires(rig: Rig) -> None:
    """A token that expires at once is exchanged again for the next call."""
    body = {"access_token": rig.sandbox.admin_key, "expires_in": 0.001, "token_type": "Bearer"}
    rig.control.fault("oauth.token", status=200, body=body, times=2)
    async with rig.admin(identity(rig)) as api:
        await api.organization.me()
        await api.organization.me()
    assert rig.calls() == ["oauth.token", "organization.me"] * 2


@pytest.mark.parametrize(
    "change",
    [
        {"federation_rule_id": "fdrl_01Another"},
        {"service_account_id": "svac_01Another"},
        {"audience": "https://another.example.com"},
        {"organization_id": UUID(int=1)},
        {"id_token": lambda _: "not-a-token"},
        {"federation_rule_id": "malformed"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_refused_exchange_says_what_to_compare(rig: Rig, change: dict[str, Any]) -> None:
    """The service's 401 gives no reason; our error names what must agree, and is not retried."""
    async with rig.admin(identity(rig, **change)) as api:
        with pytest.raises(AdminApiError, match="federation rule") as caught:
            await api.organization.me()
    assert caught.value.status in {400, 401}
    assert rig.calls() == ["oauth.token"]


@pytest.mark.parametrize("kind", [RefreshError, ValueError])
async def test_no_google_identity_is_an_error_of_its_own(rig: Rig, kind: type[Exception]) -> None:
    """google-auth's exception is not raised; the text says how to configure an identity."""

    def fail(_: str) -> str:
        raise kind("no metadata server")

    async with rig.admin(identity(rig, id_token=fail)) as api:
        with pytest.raises(GoogleIdentityError, match=r"no metadata server.*service account"):
            await api.organization.me()
    assert rig.calls() == []


@pytest.mark.parametrize("name", BAD_KEY_FILES)
async def test_a_machines_invalid_key_file_is_an_error_of_its_own(
    rig: Rig, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever google-auth raises for it; the file's content is not shown."""
    file = bad_key_file(tmp_path, name)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setattr(_metadata, "ping", lambda _: False)
    async with rig.admin(identity(rig, id_token=id_token_provider(None))) as api:
        with pytest.raises(GoogleIdentityError) as caught:
            await api.organization.me()
    assert "CANARY" not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize("kind", ["reset", "truncate", "error", "html"])
async def test_a_lost_exchange_is_repeated(rig: Rig, kind: str) -> None:
    rig.control.fault("oauth.token", kind=kind, when="after", times=2)
    async with rig.admin(identity(rig)) as api:
        await api.organization.me()
    assert rig.calls() == ["oauth.token"] * 3 + ["organization.me"]


async def test_a_strange_token_answer_does_not_show_the_token(rig: Rig) -> None:
    body = {"access_token": CANARY + "\n", "expires_in": "soon"}
    rig.control.fault("oauth.token", status=200, body=body, times=9)
    async with rig.admin(identity(rig)) as api:
        with pytest.raises(AdminResponseError, match=r"access_token.*expires_in") as caught:
            await api.organization.me()
    assert CANARY not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize(
    "secret", ["", "\n", f"{CANARY}\n{CANARY}", f"{CANARY} x", f"{CANARY}é", "\x00", "s\x00k\x00"]
)
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(secret: str) -> None:
    """An HTTP library would put such a key into its message."""
    with pytest.raises(ValueError, match="copy it again") as caught:
        AdminKey(SecretStr(secret))
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("secret", [CANARY + "\n", CANARY + "\r\n", f"\ufeff{CANARY} "])
async def test_what_echo_and_editors_add_to_a_key_is_removed(secret: str) -> None:
    async def exchange(form: dict[str, str]) -> AccessToken:
        raise NotImplementedError

    assert await AdminKey(SecretStr(secret)).headers(exchange) == {"x-api-key": CANARY}


def test_the_repr_of_an_admin_key_keeps_it() -> None:
    """Credentials end up in logs."""
    assert CANARY not in repr(AdminKey(SecretStr(CANARY)))


async def test_a_workspace_key_is_the_wrong_kind(rig: Rig) -> None:
    async with rig.admin(AdminKey(SecretStr(seed.WORKSPACE_KEY))) as api:
        with pytest.raises((PermissionDeniedError, AuthenticationError), match="Admin API key"):
            await api.organization.me()
