"""Who may do what: roles, inheritance, conditions, denials, and refusals that no role prevents."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import google.auth.jwt
import google.auth.transport.requests
import httpx
import pytest
from google.api_core import exceptions
from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.oauth2 import service_account

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, VIEWER
from sandbox.iam import write_policy
from sandbox.org_policy import ACME_CUSTOMER, ANTHROPIC_CUSTOMER
from tests.support.kms import (
    LOCATION,
    NO_RETRY,
    PROJECT,
    Client,
    Kms,
    Level,
    grpc_client,
    rest_client,
)

GET, ENCRYPT = "cloudkms.cryptoKeys.get", "cloudkms.cryptoKeyVersions.useToEncrypt"


def _forbidden(call: Callable[..., Any], **fields: Any) -> exceptions.Forbidden:
    with pytest.raises(exceptions.Forbidden) as refused:
        call(**fields, **NO_RETRY)
    return refused.value


@pytest.fixture(params=[grpc_client, rest_client], ids=["grpc", "rest"])
def anthropic(request: pytest.FixtureRequest, kms: Kms) -> Client:
    """A client that acts as Anthropic's service account, on each transport."""
    identities = kms.world.identities
    client: Client = request.param(kms.sandbox, identities.issue_token(identities.anthropic))
    return client


def test_anthropic_has_what_the_two_grants_give(kms: Kms, anthropic: Client) -> None:
    key = kms.key().name
    for call in (anthropic.get_crypto_key, anthropic.encrypt):
        _forbidden(call, request={"name": key})
    kms.grant(key, VIEWER)
    assert anthropic.get_crypto_key(name=key).name == key
    with pytest.raises(exceptions.Forbidden, match=f"Permission '{ENCRYPT}' denied on resource"):
        anthropic.encrypt(name=key, plaintext=b"x", **NO_RETRY)
    kms.grant(key, ENCRYPTER_DECRYPTER)
    sealed = anthropic.encrypt(name=key, plaintext=b"x").ciphertext
    assert anthropic.decrypt(name=key, ciphertext=sealed).plaintext == b"x"
    _forbidden(anthropic.destroy_crypto_key_version, name=f"{key}/cryptoKeyVersions/1")


def test_a_refusal_names_permission_and_resource(kms: Kms, anthropic: Client) -> None:
    key = kms.key().name
    for name in (key, f"{key}-missing"):
        refused = _forbidden(anthropic.get_crypto_key, name=name)
        text = f"Permission '{GET}' denied on resource '{name}' (or it may not exist)."
        assert text in str(refused)
        assert refused.reason == "IAM_PERMISSION_DENIED"
        assert refused.metadata == {"permission": GET, "resource": name}


@pytest.mark.parametrize("level", ["key", "ring", "project", "organization"])
def test_grants_are_inherited_downwards(kms: Kms, anthropic: Client, level: str) -> None:
    key = kms.key().name
    resource = {
        "key": key,
        "ring": key.partition("/cryptoKeys")[0],
        "project": PROJECT,
        "organization": "organizations/567890123456",
    }[level]
    binding = policy_pb2.Binding(role=VIEWER, members=[MEMBER])
    write_policy(kms.world, resource, policy_pb2.Policy(bindings=[binding]), "123456789012")
    assert anthropic.get_crypto_key(name=key).name == key


def test_a_grant_on_one_key_reaches_no_other(kms: Kms, anthropic: Client) -> None:
    key = kms.key().name
    ring = key.partition("/cryptoKeys")[0]
    kms.grant(key, VIEWER)
    other = kms.key("key2", ring=ring).name
    _forbidden(anthropic.get_crypto_key, name=other)
    _forbidden(anthropic.list_crypto_keys, parent=ring)


def test_conditions_are_evaluated_or_count_as_no(kms: Kms, anthropic: Client) -> None:
    key = kms.key().name
    kms.grant(key, VIEWER, condition='resource.name.startsWith("projects/")')
    _forbidden(anthropic.get_crypto_key, name=key)
    expiry = (kms.world.clock.now() + timedelta(hours=1)).isoformat()
    kms.grant(key, VIEWER, condition=f'request.time < timestamp("{expiry}")')
    assert anthropic.get_crypto_key(name=key).name == key
    kms.world.clock.advance(timedelta(hours=2))
    _forbidden(anthropic.get_crypto_key, name=key)


def test_new_grants_take_their_time_for_anthropic(kms: Kms, anthropic: Client) -> None:
    """Until then Anthropic is refused, and a later write does not start the wait again."""
    kms.world.switches.iam_propagation_seconds = 60
    key = kms.key().name
    kms.grant(key, VIEWER)
    _forbidden(anthropic.get_crypto_key, name=key)
    kms.world.clock.advance(timedelta(seconds=61))
    kms.grant(key, ENCRYPTER_DECRYPTER)
    assert anthropic.get_crypto_key(name=key).name == key
    _forbidden(anthropic.encrypt, name=key, plaintext=b"x")


def test_callers_learn_their_own_permissions(kms: Kms, client: Client) -> None:
    key = kms.key().name
    asked = [GET, ENCRYPT, "cloudkms.cryptoKeys.setIamPolicy"]
    request = iam_policy_pb2.TestIamPermissionsRequest(resource=key, permissions=asked)
    assert list(client.test_iam_permissions(request, timeout=10).permissions) == asked
    kms.world.identities.administrator.deny(ENCRYPT)
    assert list(client.test_iam_permissions(request, timeout=10).permissions) == asked[::2]
    exact = rest_client(kms.sandbox, kms.token("exact", {GET}))
    assert list(exact.test_iam_permissions(request, timeout=10).permissions) == [GET]
    by_policy = rest_client(kms.sandbox, kms.token("by-policy"))
    kms.grant(key, "roles/cloudkms.admin", "user:by-policy@example.com")
    assert list(by_policy.test_iam_permissions(request, timeout=10).permissions) == asked[::2]


def test_the_administrators_role_can_not_use_keys(kms: Kms) -> None:
    """For separation of duties, roles/cloudkms.admin manages keys and never encrypts."""
    key = kms.key().name
    admin = grpc_client(kms.sandbox, kms.token("admin"))
    kms.grant(key, "roles/cloudkms.admin", "user:admin@example.com")
    assert admin.get_crypto_key(name=key).name == key
    with pytest.raises(exceptions.Forbidden, match="useToEncrypt"):
        admin.encrypt(name=key, plaintext=b"x", **NO_RETRY)


@pytest.mark.parametrize(
    ("switch", "reason"),
    [("kms_api_enabled", "SERVICE_DISABLED"), ("billing_enabled", "BILLING_DISABLED")],
)
def test_a_project_that_is_not_ready_says_what_is_missing(
    kms: Kms, client: Client, switch: str, reason: str
) -> None:
    setattr(kms.world.switches, switch, False)
    refused = _forbidden(client.create_key_ring, parent=LOCATION, key_ring_id="r")
    assert (refused.reason, refused.domain) == (reason, "googleapis.com")
    consumer = "projects/123456789012"
    assert refused.metadata == {"service": "cloudkms.googleapis.com", "consumer": consumer}
    assert "123456789012" in str(refused)


def _rest_status(kms: Kms, token: str | None) -> tuple[int, str]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    url = f"{kms.sandbox.http}/v1/{LOCATION}/keyRings"
    answer = httpx.get(url, headers=headers, trust_env=False)
    return answer.status_code, answer.json().get("error", {}).get("message", "")


def test_callers_without_credentials_are_administrators_by_default(kms: Kms) -> None:
    kms.grpc.list_key_rings(parent=LOCATION)
    assert _rest_status(kms, None) == (200, "")
    kms.world.switches.anonymous_caller = "unauthenticated"
    with pytest.raises(exceptions.Unauthenticated, match="missing required authentication"):
        kms.grpc.list_key_rings(parent=LOCATION, **NO_RETRY)
    with pytest.raises(exceptions.Unauthenticated, match="invalid authentication"):
        grpc_client(kms.sandbox, "not-a-token").list_key_rings(parent=LOCATION, **NO_RETRY)
    for token, text in ((None, "missing required authentication"), ("no", "invalid authentic")):
        status, message = _rest_status(kms, token)
        assert (status, text in message) == (401, True)
    assert kms.world.log.entries[-1].caller == "unauthenticated"


def test_the_credentials_file_works_with_google_auth(kms: Kms) -> None:
    """google-auth signs with the file's key, and the token endpoint answers with a token.

    Both transports accept that token, and the one that the account signs for itself, but not its
    assertion. Only `refresh` is called: google-auth's `before_request` would also ask a real Google
    host for the account's locations.
    """
    kms.world.switches.anonymous_caller = "unauthenticated"
    credentials = service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
        kms.sandbox.google_credentials_file, scopes=["https://www.googleapis.com/auth/cloudkms"]
    )
    credentials.refresh(google.auth.transport.requests.Request())
    _calls_as_onboarding(kms, credentials.token)
    signed = google.auth.jwt.Credentials.from_signing_credentials(  # type: ignore[no-untyped-call]
        credentials, "https://cloudkms.googleapis.com/"
    )
    signed.refresh(None)
    _calls_as_onboarding(kms, signed.token.decode())
    assertion = google.auth.jwt.Credentials.from_signing_credentials(  # type: ignore[no-untyped-call]
        credentials, f"{kms.sandbox.http}/token"
    )
    assertion.refresh(None)
    assert _rest_status(kms, assertion.token.decode())[0] == 401


def _calls_as_onboarding(kms: Kms, token: str) -> None:
    assert _rest_status(kms, token)[0] == 200
    grpc_client(kms.sandbox, token).list_key_rings(parent=LOCATION, **NO_RETRY)
    assert [entry.caller for entry in kms.world.log.entries[-2:]] == ["onboarding"] * 2


def test_the_perimeter_keeps_anthropic_out(kms: Kms, anthropic: Client) -> None:
    key = kms.key().name
    kms.grant(key, VIEWER)
    kms.world.kms.constraints.perimeter_blocks = "anthropic"
    with pytest.raises(exceptions.Forbidden, match="vpcServiceControlsUniqueIdentifier") as refused:
        anthropic.get_crypto_key(name=key, **NO_RETRY)
    assert refused.value.reason == "SECURITY_POLICY_VIOLATED"
    assert "VPC_SERVICE_CONTROLS" in str(refused.value.details)
    assert kms.grpc.get_crypto_key(name=key).name == key


def test_domain_restricted_sharing_names_the_stranger(kms: Kms, client: Client) -> None:
    key = kms.key().name
    kms.grant(key, VIEWER, "user:old@stranger.example")
    kms.world.kms.constraints.allowed_policy_member_domains = [ACME_CUSTOMER, ANTHROPIC_CUSTOMER]
    policy = kms.policy(key)
    policy.bindings.add(role=ENCRYPTER_DECRYPTER, members=[MEMBER])
    request = iam_policy_pb2.SetIamPolicyRequest(resource=key, policy=policy)
    with pytest.raises(exceptions.BadRequest, match="permitted customer") as refused:
        client.set_iam_policy(request, timeout=10)
    details = str(refused.value.details)
    assert "constraints/iam.allowedPolicyMemberDomains" in details
    assert "old@stranger.example" in details
    assert "anthropic" not in details
    kms.world.kms.constraints.allowed_policy_member_domains = None
    kms.world.kms.constraints.allowed_member_subjects = ["user:old@stranger.example"]
    with pytest.raises(exceptions.BadRequest, match="permitted customer") as refused:
        client.set_iam_policy(request, timeout=10)
    assert "anthropic-cmek-client-us" in str(refused.value.details)


def test_organization_policies_stop_creation(kms: Kms, client: Client) -> None:
    ring = kms.ring()
    constraints = kms.world.kms.constraints
    constraints.allowed_protection_levels = ["HSM"]
    constraints.minimum_destroy_scheduled_duration = timedelta(days=60)
    soft = {"purpose": 1, "destroy_scheduled_duration": timedelta(days=90)}
    short = {"purpose": 1, "version_template": {"protection_level": Level.HSM}}
    for key, constraint in (
        (soft, "constraints/cloudkms.allowedProtectionLevels"),
        (short, "constraints/cloudkms.minimumDestroyScheduledDuration"),
    ):
        with pytest.raises(exceptions.BadRequest, match=constraint):
            client.create_crypto_key(
                parent=ring, crypto_key_id="k", crypto_key=kms_v1.CryptoKey(key), **NO_RETRY
            )
    constraints.resource_locations = ["in:europe-locations"]
    with pytest.raises(exceptions.BadRequest, match=r"in \[us-east5\]") as refused:
        client.create_key_ring(parent=LOCATION, key_ring_id="r", **NO_RETRY)
    assert "orgpolicy:projects/123456789012" in str(refused.value.details)
    constraints.resource_locations = ["in:us-locations"]
    assert client.create_key_ring(parent=LOCATION, key_ring_id="r").name


def test_enabled_versions_can_be_protected_from_destruction(kms: Kms, client: Client) -> None:
    """The constraint is `cloudkms.disableBeforeDestroy`."""
    kms.world.kms.constraints.disable_before_destroy = True
    with pytest.raises(exceptions.BadRequest, match="must be disabled"):
        client.destroy_crypto_key_version(name=kms.key().primary.name, **NO_RETRY)
