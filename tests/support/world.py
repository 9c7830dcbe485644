"""Build a sandbox's state directly: keys, grants, registrations, workspaces and faults.

Nothing here uses the network or the code under test, so none of it is in the request log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from google.cloud import kms_v1
from google.iam.v1 import policy_pb2
from google.protobuf import field_mask_pb2

from cmek.anthropic_identity import MEMBER
from cmek.names import organization_label
from sandbox import seed
from sandbox.admin.state import (
    DataResidency,
    GcpConfig,
    StoredExternalKey,
    StoredWorkspace,
)
from sandbox.iam import read_policy, write_policy
from sandbox.kms import operations as kms
from sandbox.world import Fault, World

NUMBER: Final = "123456789012"
"""The number of the sandbox's project `acme-kms-prod`."""
LABEL, VALUE = organization_label(seed.ORGANIZATION_ID)
_TEMPLATE: Final = {"protection_level": "HSM", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"}


@dataclass
class SandboxWorld:
    """Changes of a sandbox's state that all test worlds share."""

    world: World

    def administer(self, request: Any) -> Any:
        """Make a Cloud KMS call as the project's administrator."""
        # the handler itself, without its transport: no log entry, no fault, no latency
        method = next(m for m in kms.METHODS if m.request is type(request))
        with self.world.lock:
            return method.run(self.world, self.world.identities.administrator, request)

    def make_ring(self, ring: str) -> None:
        """Make a key ring, unless it exists."""
        parent, _, ring_id = ring.rpartition("/keyRings/")
        if ring not in self.world.kms.key_rings:
            self.administer(kms_v1.CreateKeyRingRequest(parent=parent, key_ring_id=ring_id))

    def create_key(self, key_name: str, *, skip_version: bool = False, **fields: Any) -> None:
        """Make a key with the organization label in an existing ring; `fields` override."""
        ring, _, key_id = key_name.rpartition("/cryptoKeys/")
        wanted = {
            "purpose": "ENCRYPT_DECRYPT",
            "version_template": _TEMPLATE,
            "labels": {LABEL: VALUE},
        }
        self.administer(
            kms_v1.CreateCryptoKeyRequest(
                parent=ring,
                crypto_key_id=key_id,
                crypto_key=kms_v1.CryptoKey(**(wanted | fields)),
                skip_initial_version_creation=skip_version,
            )
        )

    def create_rotated_key(self, key_name: str, **fields: Any) -> None:
        """Make a key as onboarding does, rotated every 90 days; `fields` override."""
        period = timedelta(days=90)
        rotation: dict[str, Any] = {
            "rotation_period": period,
            "next_rotation_time": self.world.clock.now() + period,
        }
        self.create_key(key_name, **(rotation | fields))

    def attach_to_new_workspace(self, external_key_id: str, name: str) -> None:
        """A workspace of this name that has the external key, without a validation."""
        workspace = StoredWorkspace(
            id=seed.fixed_id("wrkspc", name.title().replace("-", "")),
            name=name,
            created_at=self.world.clock.now().isoformat(),
            compartment_id=str(uuid4()),
            data_residency=DataResidency(),
        )
        workspace.external_key_id = external_key_id
        with self.world.lock:
            self.world.admin.workspaces[workspace.id] = workspace

    def create_external_key(
        self, external_key_id: str, name: str, key_name: str
    ) -> StoredExternalKey:
        """Make Anthropic's record of a key, without any check of it."""
        now = self.world.clock.now().isoformat()
        with self.world.lock:
            made = self.world.admin.external_keys[external_key_id] = StoredExternalKey(
                id=external_key_id,
                sequence=self.world.admin.next_sequence(),
                created_at=now,
                updated_at=now,
                display_name=name,
                geo="us",
                provider_config=GcpConfig(type="gcp", key_name=key_name),
                user_profile_id=None,
            )
        return made

    @contextmanager
    def policy_change(self, resource: str) -> Iterator[policy_pb2.Policy]:
        """The policy of any resource, to be changed in the block and then written."""
        with self.world.lock:
            policy = read_policy(self.world, resource, 3)
            yield policy
            policy.version = 3  # a policy with conditions needs it
            self._write(resource, policy)

    def bind(
        self, resource: str, role: str, member: str = MEMBER, condition: str | None = None
    ) -> None:
        """Add a binding to any resource's policy."""
        with self.policy_change(resource) as policy:
            _add(policy, role, [member], condition)

    def set_policy(self, resource: str, bindings: Mapping[str, Sequence[str]]) -> None:
        """Replace a policy by these members of each role."""
        policy = policy_pb2.Policy(version=3)
        for role, members in bindings.items():
            _add(policy, role, members, None)
        with self.world.lock:
            self._write(resource, policy)

    def _write(self, resource: str, policy: policy_pb2.Policy) -> None:
        # the number appears only in the text of an organization policy's refusal
        kind, _, rest = resource.partition("/")
        projects = self.world.kms.projects
        number = projects[rest.partition("/")[0]].number if kind == "projects" else NUMBER
        write_policy(self.world, resource, policy, number)

    def update_key(self, key_name: str, **fields: Any) -> None:
        """Change fields of a key."""
        self.administer(
            kms_v1.UpdateCryptoKeyRequest(
                crypto_key=kms_v1.CryptoKey(name=key_name, **fields),
                update_mask=field_mask_pb2.FieldMask(paths=list(fields)),
            )
        )

    def set_version_state(self, version: str, state: str) -> None:
        """Enable or disable a version."""
        self.administer(
            kms_v1.UpdateCryptoKeyVersionRequest(
                crypto_key_version=kms_v1.CryptoKeyVersion(name=version, state=state),
                update_mask=field_mask_pb2.FieldMask(paths=["state"]),
            )
        )

    def schedule_destruction(self, version: str) -> None:
        """Schedule a version's destruction, after the key's delay."""
        self.administer(kms_v1.DestroyCryptoKeyVersionRequest(name=version))

    def rotate_key(self, key_name: str) -> None:
        """Make a new version the primary."""
        made = self.administer(kms_v1.CreateCryptoKeyVersionRequest(parent=key_name))
        self.administer(
            kms_v1.UpdateCryptoKeyPrimaryVersionRequest(
                name=key_name, crypto_key_version_id=made.name.rpartition("/")[2]
            )
        )

    def remove_key(self, key_name: str) -> None:
        """Remove a key, as its deletion or that of its project does."""
        with self.world.lock:
            del self.world.kms.crypto_keys[key_name]

    @contextmanager
    def days_ago(self, days: float) -> Iterator[None]:
        """Set the sandbox's clock back for the time of the block."""
        self.world.clock.advance(timedelta(days=-days))
        try:
            yield
        finally:
            self.world.clock.advance(timedelta(days=days))

    def fault(self, call: str, status: int | str = 503, **fields: Any) -> None:
        """Make every attempt of a call fail."""
        self.world.faults.add(Fault(call=call, status=status, times=50, **fields))


def _add(
    policy: policy_pb2.Policy, role: str, members: Sequence[str], condition: str | None
) -> None:
    binding = policy.bindings.add(role=role, members=members)
    if condition:
        binding.condition.title = "a condition"
        binding.condition.expression = condition
