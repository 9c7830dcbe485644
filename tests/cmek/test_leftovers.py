"""Whatever a record says, nothing that a workspace uses gets a command that takes it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from google.iam.v1 import policy_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from cmek.anthropic.models import ExternalKey
from cmek.anthropic_identity import MEMBER, ROLES
from cmek.evidence.leftovers import Leftover, find_leftovers, made_by, read_live
from cmek.evidence.record import Chain, Event, loads
from cmek.gcp.resources import CryptoKey, KeyVersion
from cmek.names import organization_label

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ORGANIZATION = UUID(int=7)
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


class _Services:
    """Both services: every key and ring exists, with grants, label and versions."""

    def __init__(self) -> None:
        self.organization = SimpleNamespace(me=self.me)
        self.external_keys = SimpleNamespace(list=self.external)
        self.policy = policy_pb2.Policy()
        for role in ROLES:
            self.policy.bindings.add(role=role, members=[MEMBER])

    async def me(self) -> Any:
        return SimpleNamespace(id=ORGANIZATION)

    async def external(self) -> AsyncIterator[ExternalKey]:
        for key_id, (key_name, attachment) in EXTERNAL.items():
            yield ExternalKey.model_validate(
                {
                    "id": key_id,
                    "attachment": {"type": attachment},
                    "provider_config": {"type": "gcp", "key_name": key_name},
                }
            )

    async def get_crypto_key(self, name: str) -> CryptoKey:
        label, value = organization_label(ORGANIZATION)
        return CryptoKey(
            name=name,
            purpose="ENCRYPT_DECRYPT",
            algorithm="",
            protection_level="HSM",
            labels={label: value},
        )

    async def get_iam_policy(self, _name: str) -> policy_pb2.Policy:
        return self.policy

    async def list_crypto_key_versions(self, name: str) -> list[KeyVersion]:
        version = f"{name}/cryptoKeyVersions/1"
        return [KeyVersion(name=version, state="ENABLED", protection_level="HSM", algorithm="")]

    async def get_key_ring(self, name: str) -> str:
        return name

    async def list_crypto_keys(self, _name: str) -> AsyncIterator[Any]:
        for _ in ():
            yield


def found(writes: list[Any]) -> tuple[Leftover, ...]:
    """As `cmek leftovers` finds them in a record of these writes, which anybody may have sealed."""
    chain, services = Chain(), _Services()
    for number, body in enumerate(writes):
        event = Event(kind="write", subject=str(number), body=body)
        chain.append(event, run="run-1", at=NOON)
    made = tuple(made_by("wrkspc_01abcdef", loads(chain.dumps())))
    live = asyncio.run(read_live(made, services, services))  # type: ignore[arg-type]
    return find_leftovers(made, live)


@given(WRITES)
@example([registration(ATTACHED, FREE)])
@example([{"action": "SetIamPolicy", "resource": "foo"}])
@example([registration(USED, FREE), {"action": "CreateCryptoKey", "resource": USED}])
@example([{"action": "CreateCryptoKey", "resource": f"{NUMBERED}/cryptoKeys/used"}])
def test_no_command_is_given_for_what_is_in_use_whatever_the_record_says(writes: list[Any]) -> None:
    """Neither for an attached external key nor for its crypto key; and the listing never raises."""
    commands = [command for one in found(writes) for command in one.take_back]
    for command in commands:
        words = command.split()
        assert not {"used", "by-number", "--key=used", "--key=by-number"} & set(words), command
        for key_id in (ATTACHED, "ekey_01numbered", "ekey_01second"):
            assert not any(word.endswith(key_id) for word in words), command


@given(RESOURCES)
def test_a_write_of_another_kind_of_resource_is_listed_and_not_read(resource: str) -> None:
    """Somebody changed the record: it is named, with the reason why there is no command."""
    (one,) = found([{"action": "CreateKeyRing", "resource": f"{resource}/"}])
    assert one.resource == f"{resource}/"
    assert one.take_back == ()
    assert "no command is given" in one.remark


def test_what_is_not_in_use_keeps_its_commands() -> None:
    """In the order in which it is safe."""
    writes = [
        *({"action": "CreateCryptoKey", "resource": FREE}, registration(UNATTACHED, FREE)),
        {"action": "SetIamPolicy", "resource": FREE},
    ]
    listed = found(writes)
    assert [one.kind for one in listed] == ["external key", "grants", "crypto key"]
    assert all(one.take_back for one in listed)
