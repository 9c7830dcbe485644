"""Policies are read and written as at Google: etags, versions, conditions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.api_core import exceptions
from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, VIEWER
from tests.support.kms import Kms

ALICE = "user:alice@example.com"


def _policy(
    *bindings: policy_pb2.Binding, version: int = 3, etag: bytes = b""
) -> policy_pb2.Policy:
    return policy_pb2.Policy(version=version, etag=etag, bindings=bindings)


def _binding(role: str, *members: str, expression: str = "") -> policy_pb2.Binding:
    binding = policy_pb2.Binding(role=role, members=members)
    if expression:
        binding.condition.title = "condition"
        binding.condition.expression = expression
    return binding


@pytest.fixture(params=["key", "ring"])
def resource(request: pytest.FixtureRequest, kms: Kms) -> str:
    """A key or a key ring: both have policies."""
    return getattr(kms, request.param)() if request.param == "ring" else kms.key().name


def test_a_resource_without_a_policy_has_an_etag_nevertheless(kms: Kms, resource: str) -> None:
    empty = kms.policy(resource)
    assert (list(empty.bindings), bool(empty.etag)) == ([], True)
    written = kms.write(resource, _policy(_binding(VIEWER, MEMBER), etag=empty.etag))
    assert written.etag != empty.etag
    assert kms.policy(resource) == written


def test_a_stale_etag_is_aborted(kms: Kms, resource: str) -> None:
    first = kms.policy(resource)
    kms.grant(resource, VIEWER, ALICE)
    with pytest.raises(exceptions.Aborted, match="There were concurrent policy changes"):
        kms.write(resource, _policy(_binding(VIEWER, MEMBER), etag=first.etag))
    assert list(kms.policy(resource).bindings[0].members) == [ALICE]


def test_a_missing_etag_overwrites_blindly(kms: Kms, resource: str) -> None:
    """So it is at Google: a write without an etag removes what others granted."""
    kms.grant(resource, VIEWER, ALICE)
    kms.write(resource, _policy(_binding(VIEWER, MEMBER)))
    assert [list(b.members) for b in kms.policy(resource).bindings] == [[MEMBER]]


def test_conditions_hide_below_version_3(kms: Kms, resource: str) -> None:
    """A reader of version 1 sees a made-up role and no condition."""
    kms.grant(resource, VIEWER, ALICE, condition="true")
    old, new = kms.policy(resource, 1), kms.policy(resource, 3)
    assert (old.version, new.version) == (1, 3)
    assert old.bindings[0].role.startswith(f"{VIEWER}_withcond_")
    assert not old.bindings[0].HasField("condition")
    assert new.bindings[0].role == VIEWER
    assert new.bindings[0].condition.expression == "true"


def test_writing_below_version_3_can_not_lose_conditions(kms: Kms, resource: str) -> None:
    kms.grant(resource, VIEWER, ALICE, condition="true")
    old = kms.policy(resource, 1)
    with pytest.raises(exceptions.InvalidArgument, match="version"):
        kms.write(resource, _policy(_binding(VIEWER, MEMBER), version=1, etag=old.etag))
    with pytest.raises(exceptions.InvalidArgument, match="must have version 3"):
        kms.write(resource, _policy(_binding(VIEWER, MEMBER, expression="true"), version=1))
    with pytest.raises(exceptions.InvalidArgument, match="not supported"):
        kms.write(resource, _policy(*old.bindings))


@pytest.mark.parametrize("version", [2, 4, -1])
def test_other_versions_do_not_exist(kms: Kms, version: int) -> None:
    ring = kms.ring()
    with pytest.raises(exceptions.InvalidArgument):
        kms.policy(ring, version)
    with pytest.raises(exceptions.InvalidArgument):
        kms.write(ring, _policy(version=version))


@pytest.mark.parametrize(
    "binding",
    [
        _binding("viewer", MEMBER),
        _binding("", MEMBER),
        _binding(VIEWER, "alice@example.com"),
        _binding(VIEWER, "user:"),
        policy_pb2.Binding(role=VIEWER, members=[ALICE], condition={"title": "empty"}),
    ],
)
def test_malformed_bindings_are_refused(kms: Kms, binding: policy_pb2.Binding) -> None:
    ring = kms.ring()
    with pytest.raises(exceptions.InvalidArgument):
        kms.write(ring, _policy(binding))
    assert not kms.policy(ring).bindings


def test_equal_bindings_are_merged_and_empty_ones_dropped(kms: Kms, resource: str) -> None:
    written = kms.write(
        resource,
        _policy(
            _binding(VIEWER, ALICE),
            _binding(VIEWER, MEMBER, ALICE),
            _binding(VIEWER, ALICE, expression="true"),
            _binding(ENCRYPTER_DECRYPTER),
        ),
    )
    assert [list(binding.members) for binding in written.bindings] == [[ALICE, MEMBER], [ALICE]]


def test_racing_read_modify_writes_lose_nothing(kms: Kms) -> None:
    """Sixteen writers each repeat their whole cycle after ABORTED; all grants are there."""
    key = kms.key().name
    together = threading.Barrier(16)

    def add(number: int) -> int:
        together.wait(5)
        for attempt in range(1, 100):
            try:
                kms.grant(key, VIEWER, f"user:u{number}@example.com")
            except exceptions.Aborted:
                continue
            return attempt
        raise AssertionError("never got through")

    with ThreadPoolExecutor(16) as pool:
        attempts = list(pool.map(add, range(16)))
    members = {member for b in kms.policy(key).bindings for member in b.members}
    assert members == {f"user:u{number}@example.com" for number in range(16)}
    assert max(attempts) > 1, "no two writers ever met: the race was not tested"


def test_a_policy_has_at_most_1500_members(kms: Kms, resource: str) -> None:
    """They are counted over all bindings, as in terraform-provider-google#25093."""
    members = [f"user:u{number}@example.com" for number in range(1498)]
    two = _binding(VIEWER, ALICE, MEMBER)
    kms.write(resource, _policy(_binding(ENCRYPTER_DECRYPTER, *members), two))
    before = kms.policy(resource)
    with pytest.raises(exceptions.InvalidArgument, match=r"\(1,501\).*1,500"):
        kms.write(resource, _policy(_binding(ENCRYPTER_DECRYPTER, *members, ALICE), two))
    assert kms.policy(resource) == before


@pytest.mark.parametrize(
    ("role", "accepted"),
    [
        ("roles/storage.admin", False),
        ("roles/cloudkms.importer", True),
        ("roles/owner", True),
        ("projects/acme-kms-prod/roles/cmekWorker", True),
    ],
)
def test_a_role_of_another_service_does_not_apply_to_a_key(
    kms: Kms, resource: str, role: str, accepted: bool
) -> None:
    policy = _policy(_binding(role, ALICE))
    if accepted:
        assert kms.write(resource, policy).bindings[0].role == role
    else:
        with pytest.raises(exceptions.InvalidArgument, match="not supported for this resource"):
            kms.write(resource, policy)
