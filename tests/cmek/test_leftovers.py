"""Whatever a record says, nothing that a workspace uses gets a command that removes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from google.iam.v1 import policy_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from cmek.anthropic.models import ExternalKey
from cmek.anthropic_identity import MEMBER, ROLES
from cmek.errors import CmekError
from cmek.evidence.leftovers import Leftover, find_leftovers, made_by, read_live
from cmek.evidence.record import Chain, Event, loads
from cmek.gcp.resources import CryptoKey, KeyVersion
from cmek.names import in_use_label, organization_label

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ORGANIZATION = UUID(int=7)
OURS, TRUE = organization_label(ORGANIZATION)
OTHERS = (organization_label(UUID(int=8))[0], in_use_label("wrkspc_01abcdef")[0])
"""Labels of another organization, and of a workspace that has the key."""
RING = "projects/acme-kms-prod/locations/us-east5/keyRings/anthropic-cmek"
USED, FREE = f"{RING}/cryptoKeys/used", f"{RING}/cryptoKeys/free"
NUMBERED = RING.replace("acme-kms-prod", "123456789012")
ALSO_USED = f"{NUMBERED}/cryptoKeys/by-number"
ATTACHED, UNATTACHED, OF_NOBODY = "ekey_01attached", "ekey_01unattached", "ekey_01ofnobody"
EXTERNAL = {
    ATTACHED: (USED, "attached"),
    "ekey_01numbered": (ALSO_USED, "attached"),
    UNATTACHED: (FREE, "unattached"),
    "ekey_01second": (USED, "unattached"),
}
RESOURCES = st.sampled_from(
    [
        *(RING, NUMBERED, USED, FREE, ALSO_USED, f"{NUMBERED}/cryptoKeys/used"),
        f"{RING}/cryptoKeys/by-number",
        *EXTERNAL,
        *(OF_NOBODY, "", "foo", "/cryptoKeys/", f"{USED}/cryptoKeyVersions/1", f"{FREE} --all"),
    ]
)
ACTIONS = st.sampled_from(
    [
        *("external_keys.create", "SetIamPolicy", "UpdateCryptoKey"),
        *("CreateCryptoKey", "CreateKeyRing", "other"),
    ]
)
AFTER = st.none() | st.fixed_dictionaries({}, optional={"key_name": RESOURCES | st.none()})
BODIES: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"action": ACTIONS, "resource": RESOURCES, "after": AFTER},
    optional={"before": st.just({"users": []}) | st.just([])},
)
WRITES = st.lists(BODIES | st.none() | st.just({"action": "SetIamPolicy"}), max_size=6)


def registration(resource: str, key_name: str) -> dict[str, Any]:
    after = {"key_name": key_name}
    return {"action": "external_keys.create", "resource": resource, "after": after}


@dataclass
class _Services:
    """Both services, and the worker's own record.

    Every key and ring exists, with grants, label and versions; an onboarding created every key.
    """

    labels: tuple[str, ...] = (OURS,)
    unattached: str = "unattached"
    """The attachment that Anthropic shows for external keys without a workspace."""
    created: bool | CmekError = True
    policy: policy_pb2.Policy = field(default_factory=policy_pb2.Policy)

    def __post_init__(self) -> None:
        self.organization = SimpleNamespace(me=self.me)
        self.external_keys = SimpleNamespace(list=self.external)
        for role in ROLES:
            self.policy.bindings.add(role=role, members=[MEMBER])

    async def me(self) -> Any:
        return SimpleNamespace(id=ORGANIZATION)

    async def external(self) -> AsyncIterator[ExternalKey]:
        for key_id, (key_name, attachment) in EXTERNAL.items():
            shown = attachment if attachment == "attached" else self.unattached
            yield ExternalKey.model_validate(
                {
                    "id": key_id,
                    "attachment": {"type": shown},
                    "provider_config": {"type": "gcp", "key_name": key_name},
                }
            )

    async def get_crypto_key(self, name: str) -> CryptoKey:
        return CryptoKey(
            name=name,
            purpose="ENCRYPT_DECRYPT",
            algorithm="",
            protection_level="HSM",
            labels=dict.fromkeys(self.labels, TRUE),
        )

    async def get_iam_policy(self, _name: str) -> policy_pb2.Policy:
        return self.policy

    async def list_crypto_key_versions(self, name: str) -> list[KeyVersion]:
        version = f"{name}/cryptoKeyVersions/1"
        return [KeyVersion(name=version, state="ENABLED", protection_level="HSM", algorithm="")]

    async def was_created(self, _name: str) -> bool:
        if isinstance(self.created, CmekError):
            raise self.created
        return self.created

    async def get_key_ring(self, name: str) -> str:
        return name

    async def list_crypto_keys(self, _name: str) -> AsyncIterator[Any]:
        for _ in ():
            yield


def found(writes: list[Any], services: _Services | None = None) -> tuple[Leftover, ...]:
    """The leftovers of a record with these writes, which anybody may have written."""
    chain, services = Chain(), services or _Services()
    for number, body in enumerate(writes):
        event = Event(kind="write", subject=str(number), body=body)
        chain.append(event, run="run-1", at=NOON)
    made = tuple(made_by("wrkspc_01abcdef", loads(chain.dumps())))
    live = asyncio.run(
        read_live(made, services, services, services.was_created)  # type: ignore[arg-type]
    )
    return find_leftovers(made, live)


def commands(listed: tuple[Leftover, ...]) -> list[str]:
    return [command for one in listed for command in one.take_back]


@given(WRITES)
@example([registration(ATTACHED, FREE)])
@example([{"action": "SetIamPolicy", "resource": "foo"}])
@example([registration(USED, FREE), {"action": "CreateCryptoKey", "resource": USED}])
@example([{"action": "CreateCryptoKey", "resource": f"{NUMBERED}/cryptoKeys/used"}])
def test_no_command_is_given_for_what_is_in_use_whatever_the_record_says(writes: list[Any]) -> None:
    """No command names an attached external key or its crypto key, and the listing never raises."""
    for command in commands(found(writes)):
        words = command.split()
        assert not {"used", "by-number", "--key=used", "--key=by-number"} & set(words), command
        for key_id in (ATTACHED, "ekey_01numbered", "ekey_01second"):
            assert not any(word.endswith(key_id) for word in words), command


@given(RESOURCES)
def test_a_write_of_another_kind_of_resource_is_listed_and_not_read(resource: str) -> None:
    """Somebody has changed the record: the resource is named, with the reason for no command."""
    (one,) = found([{"action": "CreateKeyRing", "resource": f"{resource}/"}])
    assert one.resource == f"{resource}/"
    assert one.take_back == ()
    assert "no command is given" in one.remark


ALL_OF_A_KEY = [
    {"action": "CreateCryptoKey", "resource": FREE},
    registration(UNATTACHED, FREE),
    {"action": "SetIamPolicy", "resource": FREE},
    {"action": "UpdateCryptoKey", "resource": FREE, "before": {"users": []}},
]


def test_what_is_not_in_use_keeps_its_commands() -> None:
    """They are in a safe order."""
    listed = found(ALL_OF_A_KEY)
    kinds = ["external key", "grants", "organization label", "crypto key"]
    assert [one.kind for one in listed] == kinds
    assert all(one.take_back for one in listed)


@given(WRITES, st.sampled_from(OTHERS), st.booleans())
@example(ALL_OF_A_KEY, OTHERS[0], True)
@example(ALL_OF_A_KEY, OTHERS[1], True)
def test_nothing_is_taken_from_a_key_that_labels_of_others_mark(
    writes: list[Any], label: str, ours: bool
) -> None:
    """Another organization may use it through the same account, which only a label shows."""
    services = _Services(labels=(label, OURS) if ours else (label,))
    listed = found(writes, services)
    assert not [one for one in commands(listed) if one.startswith("gcloud")]
    for one in listed:
        if one.kind in {"grants", "crypto key"} and one.resource == FREE:
            assert label in one.remark, one


@given(WRITES, st.text(max_size=200).filter(lambda text: text not in {"attached", "unattached"}))
@example(ALL_OF_A_KEY, "pending")
@example(ALL_OF_A_KEY, "Unattached")
@example(ALL_OF_A_KEY, "")
def test_only_the_documented_value_means_that_no_workspace_has_a_key(
    writes: list[Any], attachment: str
) -> None:
    """The meaning of any other value is not known; the remark shows it."""
    services = _Services(unattached=attachment)
    assert commands(found([*writes, *ALL_OF_A_KEY], services)) == []
    doubt = f"{UNATTACHED} has the attachment {attachment[:120]!a}"
    assert all(doubt in one.remark for one in found(ALL_OF_A_KEY, services))


@pytest.mark.parametrize(
    ("services", "why"),
    [
        (_Services(labels=()), "does not carry this organization's label"),
        (_Services(created=False), "do not show here that an onboarding created this key"),
        (_Services(created=CmekError("no such folder")), "can't be read here: no such folder"),
    ],
    ids=["no label of ours", "no record of the worker's", "no access to the worker's records"],
)
def test_no_version_is_destroyed_on_the_word_of_the_published_record_alone(
    services: _Services, why: str
) -> None:
    """A writer to Prefect can forge that record: label and the worker's own record must agree."""
    (key,) = [one for one in found(ALL_OF_A_KEY, services) if one.kind == "crypto key"]
    assert key.take_back == ()
    assert why in key.remark
