"""The Cloud KMS client against the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.oauth2.credentials import Credentials
from google.type import expr_pb2

from cmek.addresses import EndpointError
from cmek.anthropic_identity import MEMBER, ROLES
from cmek.gcp.errors import GoogleApiError
from cmek.gcp.iam import PolicyView, unconditional_roles
from cmek.gcp.kms import CloudKms
from cmek.gcp.resources import MAX_LABELS, CryptoKey, KeySpec
from sandbox.kms import operations as kms_policies
from tests.support.clients import SOFTWARE, Rig

pytestmark = pytest.mark.anyio


def set_policy(rig: Rig, resource: str, *rows: tuple[str, str, str | None]) -> None:
    """Another caller sets the policy of a key to these (role, member, condition)."""
    world = rig.sandbox.world
    policy = policy_pb2.Policy(version=3)
    for role, member, when in rows:
        condition = expr_pb2.Expr(title="t", expression=when) if when else None
        policy.bindings.add(role=role, members=[member], condition=condition)
    request = iam_policy_pb2.SetIamPolicyRequest(resource=resource, policy=policy)
    kms_policies.set_iam_policy(world, world.identities.administrator, request)


async def test_a_location_says_whether_it_has_hsm(rig: Rig) -> None:
    async with rig.kms() as kms:
        location = await kms.get_location(rig.sandbox.project_id, "us-east5")
    assert location.hsm_available
    assert location.name.endswith("/locations/us-east5")


@pytest.mark.parametrize("what", ["location", "ring", "key"])
async def test_a_mistyped_location_is_an_error_not_an_absence(rig: Rig, what: str) -> None:
    """NOT_FOUND of the location must not read as "create it"."""
    ring = rig.ring_name("us-east55")
    async with rig.kms() as kms:
        reads: dict[str, Callable[[], Awaitable[object]]] = {
            "location": lambda: kms.get_location(rig.sandbox.project_id, "us-east55"),
            "ring": lambda: kms.get_key_ring(ring),
            "key": lambda: kms.get_crypto_key(f"{ring}/cryptoKeys/key"),
        }
        with pytest.raises(GoogleApiError, match="us-east55") as caught:
            await reads[what]()
    assert caught.value.problem.reason == "MISROUTED_LOCATION"
    assert "correct the location" in caught.value.problem.advice


async def test_ring_and_key_are_absent_then_made_then_adopted(rig: Rig) -> None:
    """Get returns None, the first create makes it, the second one finds it."""
    ring = rig.ring_name()
    name = f"{ring}/cryptoKeys/key"
    async with rig.kms() as kms:
        assert await kms.get_key_ring(ring) is None
        assert await kms.get_crypto_key(name) is None
        made, was_made = await kms.create_key_ring(ring)
        assert (made.name, was_made) == (ring, True)
        assert await kms.create_key_ring(ring) == (made, False)
        key, was_made = await kms.create_crypto_key(name, SOFTWARE)
        assert was_made
        assert await kms.create_crypto_key(name, KeySpec(protection_level="HSM")) == (key, False)
        assert await kms.get_crypto_key(name) == key


async def test_a_key_is_made_as_specified(rig: Rig) -> None:
    """Purpose, algorithm, protection, rotation, destroy delay and labels are set."""
    day = timedelta(days=1)
    spec = KeySpec(
        protection_level="HSM",
        rotation_period=90 * day,
        destroy_scheduled_duration=60 * day,
        labels={"team": "security"},
    )
    async with rig.kms() as kms:
        name = await rig.make_key(kms, spec)
        key = await kms.get_crypto_key(name)
    assert key is not None
    assert (key.purpose, key.algorithm) == ("ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION")
    assert (key.protection_level, key.import_only) == ("HSM", False)
    assert (key.rotation_period, key.destroy_scheduled_duration) == (90 * day, 60 * day)
    assert key.labels == {"team": "security"}
    assert key.primary is not None
    assert (key.primary.state, key.primary.id) == ("ENABLED", "1")
    assert key.next_rotation_time is not None
    assert abs(key.next_rotation_time - datetime.now(UTC) - 90 * day) < timedelta(minutes=5)
    assert CryptoKey.model_validate_json(key.model_dump_json()) == key


async def test_a_key_without_rotation_or_primary_says_none(rig: Rig) -> None:
    """Absence is None, not zero; an empty justifications policy is not the same as none."""
    message = kms_v1.CryptoKey(name="k", purpose="ENCRYPT_DECRYPT")
    key = CryptoKey.of(message)
    assert (key.primary, key.rotation_period, key.next_rotation_time) == (None, None, None)
    assert (key.justifications_policy, key.crypto_key_backend, key.create_time) == (None,) * 3
    for reasons in ((), ("CUSTOMER_INITIATED_ACCESS",)):
        policy = kms_v1.KeyAccessJustificationsPolicy(allowed_access_reasons=reasons)
        message.key_access_justifications_policy = policy
        assert CryptoKey.of(message).justifications_policy == reasons


async def test_every_page_of_versions_is_read(rig: Rig) -> None:
    async with rig.kms() as kms:
        name = await rig.make_key(kms)
        stored = rig.sandbox.world.kms.versions[name]
        for number in range(2, 1003):
            stored[number] = kms_v1.CryptoKeyVersion(name=f"{name}/cryptoKeyVersions/{number}")
        rig.control.clear_log()
        versions = await kms.list_crypto_key_versions(name)
    assert {int(version.id) for version in versions} == set(range(1, 1003))
    assert rig.calls() == ["ListCryptoKeyVersions"] * 2


async def test_a_label_is_added_to_the_others(rig: Rig) -> None:
    """It is a read, merge, write and read-back; the second time there is no write."""
    async with rig.kms() as kms:
        name = await rig.make_key(kms, KeySpec(protection_level="SOFTWARE", labels={"a": "b"}))
        rig.control.clear_log()
        labelled = await kms.add_label(name, "anthropic-org-x", "true")
        assert labelled.labels == {"a": "b", "anthropic-org-x": "true"}
        assert rig.calls() == ["GetCryptoKey", "UpdateCryptoKey", "GetCryptoKey"]
        assert await kms.add_label(name, "anthropic-org-x", "true") == labelled
    assert rig.calls(write=True) == ["UpdateCryptoKey"]


async def test_a_65th_label_is_refused_before_any_write(rig: Rig) -> None:
    """The text says what to do; replacing one of the 64 is fine."""
    full = {f"label-{number}": "x" for number in range(MAX_LABELS)}
    async with rig.kms() as kms:
        name = await rig.make_key(kms, KeySpec(protection_level="SOFTWARE", labels=full))
        with pytest.raises(GoogleApiError, match=r"64 labels.*Remove"):
            await kms.add_label(name, "one-more", "true")
        assert (await kms.add_label(name, "label-0", "y")).labels["label-0"] == "y"
        with pytest.raises(GoogleApiError, match="NOT_FOUND"):
            await kms.add_label(f"{name}-missing", "a", "b")


async def test_grants_are_added_in_one_write_and_then_in_none(rig: Rig) -> None:
    async with rig.kms() as kms:
        name = await rig.make_key(kms)
        rig.control.clear_log()
        policy, written = await kms.add_grants(name, MEMBER, ROLES)
        assert written
        assert unconditional_roles(policy, MEMBER) == set(ROLES)
        assert rig.calls() == ["GetIamPolicy", "SetIamPolicy"]
        assert await kms.add_grants(name, MEMBER, ROLES) == (policy, False)
    assert rig.calls(write=True) == ["SetIamPolicy"]


async def test_grants_of_others_and_their_conditions_stay(rig: Rig) -> None:
    """A conditional binding survives, which a policy below version 3 would lose."""
    until = "request.time < timestamp('2030-01-01T00:00:00Z')"
    others = (
        ("roles/cloudkms.viewer", "user:a@example.com", None),
        ("roles/cloudkms.admin", "group:b@example.com", until),
    )
    async with rig.kms() as kms:
        name = await rig.make_key(kms)
        set_policy(rig, name, *others)
        await kms.add_grants(name, MEMBER, ROLES)
        view = PolicyView.of(await kms.get_iam_policy(name))
    found = {(b.role, member, b.condition) for b in view.bindings for member in b.members}
    assert found == {*others, *((role, MEMBER, None) for role in ROLES)}


async def test_two_writers_at_once_both_win(rig: Rig) -> None:
    """The loser of the race reads again: no grant is lost, whoever was first."""
    people = [f"user:{name}@example.com" for name in "abcd"]
    async with rig.kms() as kms:
        name = await rig.make_key(kms)
        await asyncio.gather(
            kms.add_grants(name, MEMBER, ROLES),
            *(kms.add_grants(name, person, ["roles/cloudkms.viewer"]) for person in people),
        )
        policy = await kms.get_iam_policy(name)
    assert unconditional_roles(policy, MEMBER) == set(ROLES)
    for person in people:
        assert unconditional_roles(policy, person) == {"roles/cloudkms.viewer"}


async def test_an_endless_race_ends_after_six_rounds(rig: Rig) -> None:
    """Each round reads again; then the error says what to do."""
    async with rig.kms() as kms:
        name = await rig.make_key(kms)
        rig.control.clear_log()
        rig.control.fault("SetIamPolicy", status="ABORTED", times=99)
        with pytest.raises(GoogleApiError) as caught:
            await kms.add_grants(name, MEMBER, ROLES)
    assert caught.value.problem.status == "ABORTED"
    assert "read it again" in caught.value.problem.advice
    assert rig.calls() == ["GetIamPolicy", "SetIamPolicy"] * 6


async def test_a_policy_without_an_etag_is_never_written(rig: Rig) -> None:
    """Google accepts such a write and overwrites whatever is there."""

    class Careless:
        """A client whose answer lacks the etag, which the sandbox cannot produce."""

        async def get_iam_policy(self, **_: object) -> policy_pb2.Policy:
            return policy_pb2.Policy()

        set_iam_policy = None

    with pytest.raises(GoogleApiError, match="etag"):
        await CloudKms(Careless()).add_grants("key", MEMBER, ROLES)  # type: ignore[arg-type]


async def test_the_callers_own_permissions_can_be_tested(rig: Rig) -> None:
    token = rig.control.identity(
        "reader", member="user:r@example.com", permissions=["cloudkms.cryptoKeys.get"]
    )
    async with rig.kms() as kms:
        name = await rig.make_key(kms)
    async with rig.kms(credentials=Credentials(token)) as kms:  # type: ignore[no-untyped-call]
        asked = ["cloudkms.cryptoKeys.get", "cloudkms.cryptoKeys.setIamPolicy"]
        assert await kms.test_iam_permissions(name, asked) == {"cloudkms.cryptoKeys.get"}


async def test_credentials_reach_a_local_endpoint(rig: Rig) -> None:
    """The bearer token is sent, so that the sandbox knows the caller and can refuse."""
    ring = rig.ring_name()
    token = rig.control.identity("nobody", member="user:n@example.com", permissions=[])
    async with rig.kms(credentials=Credentials(token)) as kms:  # type: ignore[no-untyped-call]
        with pytest.raises(GoogleApiError) as caught:
            await kms.get_key_ring(ring)
    problem = caught.value.problem
    assert (problem.status, problem.permission) == ("PERMISSION_DENIED", "cloudkms.keyRings.get")
    assert problem.resource == ring
    assert rig.control.log()[-1]["caller"] == "nobody"
    assert token not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize(
    "connect",
    [
        lambda: CloudKms.connect(endpoint="https://cloudkms.googleapis.com"),
        lambda: CloudKms.connect(endpoint="http://127.0.0.1:1"),
        lambda: CloudKms.connect(endpoint="kms.example.com:443"),
        CloudKms.connect,
    ],
)
async def test_an_endpoint_is_host_and_port_and_has_credentials_beyond_loopback(
    connect: Callable[[], CloudKms],
) -> None:
    with pytest.raises(EndpointError):
        connect()
