"""The Cloud KMS client when the transport fails, with each fault before and after the effect."""

from __future__ import annotations

import time
from typing import Any

import pytest
from google.oauth2 import service_account

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.gcp.errors import GoogleApiError
from cmek.gcp.iam import unconditional_roles
from cmek.gcp.kms import CloudKms
from cmek.gcp.resources import KeySpec
from tests.support.clients import SOFTWARE, Rig

pytestmark = pytest.mark.anyio

LOST: list[dict[str, Any]] = [
    {"status": "UNAVAILABLE"},
    {"status": "DEADLINE_EXCEEDED"},
    {"status": "RESOURCE_EXHAUSTED"},
    {"status": "INTERNAL"},
    {"status": "UNKNOWN"},
    {"kind": "reset"},
    {"kind": "truncate"},
    {"kind": "html"},
]
each_loss = pytest.mark.parametrize("fault", LOST, ids=lambda f: "-".join(map(str, f.values())))
before_or_after = pytest.mark.parametrize("when", ["before", "after"])


@each_loss
@before_or_after
async def test_a_fresh_key_survives_any_loss(rig: Rig, fault: Any, when: str) -> None:
    """Each of the calls fails twice, and still there is one ring, one key, two grants."""
    for call in ("GetKeyRing", "CreateKeyRing", "CreateCryptoKey", "GetIamPolicy", "SetIamPolicy"):
        rig.control.fault(call, when=when, times=2, **fault)
    ring = rig.ring_name()
    async with rig.kms() as kms:
        assert await kms.get_key_ring(ring) is None
        await kms.create_key_ring(ring)
        key, _ = await kms.create_crypto_key(f"{ring}/cryptoKeys/key", SOFTWARE)
        policy, written = await kms.add_grants(key.name, MEMBER, ROLES)
        versions = await kms.list_crypto_key_versions(key.name)
    assert written
    assert unconditional_roles(policy, MEMBER) == set(ROLES)
    assert all(len(binding.members) == 1 for binding in policy.bindings)
    assert len(versions) == 1


@each_loss
async def test_a_call_gives_up_after_four_attempts(rig: Rig, fault: Any) -> None:
    """No more than four requests, then a typed error that names call and resource."""
    ring = rig.ring_name()
    rig.control.fault("GetKeyRing", times=9, **fault)
    async with rig.kms() as kms:
        with pytest.raises(GoogleApiError, match=f"GetKeyRing {ring}") as caught:
            await kms.get_key_ring(ring)
    assert rig.calls() == ["GetKeyRing"] * 4
    assert caught.value.problem.advice
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "status", ["PERMISSION_DENIED", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "UNAUTHENTICATED"]
)
async def test_what_a_retry_cannot_solve_is_raised_at_once(rig: Rig, status: str) -> None:
    rig.control.fault("GetCryptoKey", status=status, times=9)
    async with rig.kms() as kms:
        with pytest.raises(GoogleApiError) as caught:
            await kms.get_crypto_key(rig.key_name())
    assert caught.value.problem.status == status
    assert rig.calls() == ["GetCryptoKey"]


async def test_a_name_that_is_taken_but_absent_is_an_error(rig: Rig) -> None:
    """Cloud KMS never frees the name of a deleted key, but frees that of a ring."""
    rig.control.fault("CreateKeyRing", status="ALREADY_EXISTS")
    rig.control.fault("CreateCryptoKey", status="ALREADY_EXISTS")
    ring = rig.ring_name()
    async with rig.kms() as kms:
        with pytest.raises(GoogleApiError, match="made or deletes a ring of this name"):
            await kms.create_key_ring(ring)
        with pytest.raises(GoogleApiError, match="never frees the name of a deleted crypto key"):
            await kms.create_crypto_key(f"{ring}/cryptoKeys/k", KeySpec(protection_level="HSM"))


async def test_nobody_listening_is_an_error_within_the_budget(rig: Rig) -> None:
    """The library's own 45 s of retries are disabled."""
    kms = CloudKms.connect(endpoint="127.0.0.1:9")
    started = time.monotonic()
    try:
        with pytest.raises(GoogleApiError, match="UNAVAILABLE"):
            await kms.get_key_ring(rig.ring_name())
    finally:
        await kms.aclose()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("path", "transient"), [("/no-such-path", False), ("", True)], ids=["refused", "unreachable"]
)
async def test_credentials_that_get_no_token_are_distinguished(
    rig: Rig, path: str, transient: bool
) -> None:
    """The transport reports both as UNAVAILABLE; only for the unreachable one a retry helps."""
    from_file = service_account.Credentials.from_service_account_file
    host = rig.sandbox.http if path else "http://127.0.0.1:9"
    credentials = from_file(rig.sandbox.google_credentials_file)  # type: ignore[no-untyped-call]
    credentials._token_uri = f"{host}{path}"
    async with rig.kms(credentials=credentials) as kms:
        with pytest.raises(GoogleApiError, match="GcpCredentials") as caught:
            await kms.get_key_ring(rig.ring_name())
    problem = caught.value.problem
    assert (problem.status, problem.reason) == ("UNAUTHENTICATED", "CREDENTIALS")
    assert problem.transient is transient
    assert rig.calls(service="kms") == []
