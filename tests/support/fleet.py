"""Onboarded keys put straight into a sandbox's state: as many as a test wants, at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import field_mask_pb2

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.names import organization_label
from sandbox.admin.state import DataResidency, GcpConfig, StoredExternalKey, StoredWorkspace
from sandbox.kms import operations as kms
from sandbox.seed import ORGANIZATION_ID, fixed_id
from sandbox.world import World
from tests.support.kms import LOCATION

RING = f"{LOCATION}/keyRings/anthropic-cmek"
LABEL, VALUE = organization_label(ORGANIZATION_ID)


class Fleet:
    """Makes and breaks keys as the project's administrator, without any request."""

    def __init__(self, world: World, ring: str = RING) -> None:
        self.world = world
        self.ring = ring
        self.make_ring(ring)

    def make_ring(self, ring: str) -> None:
        """A key ring, unless it is there."""
        parent, _, ring_id = ring.rpartition("/keyRings/")
        if ring not in self.world.kms.key_rings:
            self._run(kms_v1.CreateKeyRingRequest(parent=parent, key_ring_id=ring_id))

    def onboard(self, name: str, *, ring: str | None = None, **key: Any) -> str:
        """A healthy key with its grants, registered and attached to a workspace; the `ekey_…`."""
        ring = ring or self.ring
        self.make_key(name, ring=ring, **key)
        self.set_policy(f"{ring}/cryptoKeys/{name}", {role: [MEMBER] for role in ROLES})
        return self.register(name, f"{ring}/cryptoKeys/{name}")

    def make_key(self, name: str, *, ring: str | None = None, **key: Any) -> None:
        """A key as onboarding makes it, but for the fields given."""
        now = self.world.clock.now()
        fields: dict[str, Any] = {
            "purpose": "ENCRYPT_DECRYPT",
            "version_template": {
                "protection_level": "HSM",
                "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            },
            "labels": {LABEL: VALUE},
            "rotation_period": timedelta(days=90),
            "next_rotation_time": now + timedelta(days=90),
        } | key
        skip = fields.pop("skip_initial_version_creation", False)
        self._run(
            kms_v1.CreateCryptoKeyRequest(
                parent=ring or self.ring,
                crypto_key_id=name,
                crypto_key=kms_v1.CryptoKey(**fields),
                skip_initial_version_creation=skip,
            )
        )

    def register(self, name: str, key_name: str) -> str:
        """An external key and a workspace that has it, without a look at the key."""
        admin, now = self.world.admin, self.world.clock.now().isoformat()
        external_key_id = fixed_id("ekey", name.title().replace("-", ""))
        with self.world.lock:
            admin.external_keys[external_key_id] = StoredExternalKey(
                id=external_key_id,
                sequence=admin.next_sequence(),
                created_at=now,
                updated_at=now,
                display_name=name,
                geo="us",
                provider_config=GcpConfig(type="gcp", key_name=key_name),
                user_profile_id=None,
            )
            workspace = StoredWorkspace(
                id=fixed_id("wrkspc", name.title().replace("-", "")),
                name=name,
                created_at=now,
                compartment_id=str(uuid4()),
                data_residency=DataResidency(),
            )
            workspace.external_key_id = external_key_id
            admin.workspaces[workspace.id] = workspace
        return external_key_id

    def set_policy(
        self, resource: str, bindings: dict[str, list[str]], condition: str | None = None
    ) -> None:
        """Replace a policy."""
        policy = policy_pb2.Policy(version=3)
        for role, members in bindings.items():
            binding = policy.bindings.add(role=role, members=members)
            if condition:
                binding.condition.title = "some condition"
                binding.condition.expression = condition
        self._run(iam_policy_pb2.SetIamPolicyRequest(resource=resource, policy=policy))

    def set_state(self, name: str, version: int, state: str) -> None:
        """Enable or disable a version."""
        self._run(
            kms_v1.UpdateCryptoKeyVersionRequest(
                crypto_key_version=kms_v1.CryptoKeyVersion(
                    name=self.version(name, version), state=state
                ),
                update_mask=field_mask_pb2.FieldMask(paths=["state"]),
            )
        )

    def destroy(self, name: str, version: int) -> None:
        """Schedule a version's destruction."""
        self._run(kms_v1.DestroyCryptoKeyVersionRequest(name=self.version(name, version)))

    def rotate(self, name: str) -> None:
        """Make a new version the primary."""
        made = self._run(kms_v1.CreateCryptoKeyVersionRequest(parent=self.key(name)))
        self._run(
            kms_v1.UpdateCryptoKeyPrimaryVersionRequest(
                name=self.key(name), crypto_key_version_id=made.name.rpartition("/")[2]
            )
        )

    def update(self, name: str, **fields: Any) -> None:
        """Change fields of a key."""
        self._run(
            kms_v1.UpdateCryptoKeyRequest(
                crypto_key=kms_v1.CryptoKey(name=self.key(name), **fields),
                update_mask=field_mask_pb2.FieldMask(paths=list(fields)),
            )
        )

    def delete(self, name: str) -> None:
        """Let a key vanish, as a deletion or a deleted project does."""
        with self.world.lock:
            del self.world.kms.crypto_keys[self.key(name)]

    def key(self, name: str) -> str:
        """The key's resource name."""
        return f"{self.ring}/cryptoKeys/{name}"

    def version(self, name: str, number: int) -> str:
        """A version's resource name."""
        return f"{self.key(name)}/cryptoKeyVersions/{number}"

    def _run(self, request: Any) -> Any:
        method = next(m for m in kms.METHODS if m.request is type(request))
        with self.world.lock:
            return method.run(self.world, self.world.identities.administrator, request)


def many_keys(world: World, count: int, per_ring: int = 100) -> list[str]:
    """So many healthy keys in rings of `per_ring`; their external keys."""
    fleet, ids = Fleet(world), []
    for number in range(count):
        ring = f"{LOCATION}/keyRings/ring-{number // per_ring:03}"
        fleet.make_ring(ring)
        ids.append(fleet.onboard(f"key-{number:05}", ring=ring))
    return ids
