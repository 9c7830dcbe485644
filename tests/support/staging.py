"""Put the sandbox's world into a state in which one thing is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.cloud import kms_v1
from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.names import KeyName, organization_label
from sandbox import seed
from sandbox.admin.state import GcpConfig, StoredExternalKey
from sandbox.iam import read_policy, write_policy
from sandbox.kms import keys as kms_key_rings
from sandbox.kms import keys as kms_keys
from sandbox.kms import versions as kms_versions
from sandbox.world import ACCESS_POLICY, Fault, Json, World

KEY = KeyName("acme-kms-prod", "us-east5", "anthropic-cmek", "payments-prod")
PROJECT = "projects/acme-kms-prod"
NUMBER = "123456789012"
FOLDER = "folders/345678901234"
ORGANIZATION = "organizations/567890123456"
WORKSPACE = seed.fixed_id("wrkspc", "PaymentsProd")
EXTERNAL_KEY = seed.fixed_id("ekey", "PaymentsProd")
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState


@dataclass(slots=True)
class Stage:
    """A world whose parts tests change directly, each method for one thing."""

    world: World

    def reset(self) -> None:
        """A project under a folder with everything in order, and no ring, key or registration."""
        seed.reset(self.world, minimal=True)
        self.world.kms.projects[KEY.project].ancestors = [FOLDER, ORGANIZATION]

    def ring(self) -> None:
        """The key ring."""
        request = kms_v1.CreateKeyRingRequest(
            parent=KEY.location_name, key_ring_id=KEY.key_ring, key_ring={}
        )
        kms_key_rings.create_key_ring(self.world, self.world.identities.administrator, request)

    def key(self, *, skip_version: bool = False, **fields: Any) -> None:
        """The ring and the key with label and both grants, registered at Anthropic."""
        self.ring()
        label, value = organization_label(seed.ORGANIZATION_ID)
        template = {"protection_level": "HSM", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"}
        wanted = {"purpose": "ENCRYPT_DECRYPT", "labels": {label: value}} | fields
        request = kms_v1.CreateCryptoKeyRequest(
            parent=KEY.key_ring_name,
            crypto_key_id=KEY.crypto_key,
            crypto_key={"version_template": template} | wanted,
            skip_initial_version_creation=skip_version,
        )
        kms_keys.create_crypto_key(self.world, self.world.identities.administrator, request)
        for role in ROLES:
            self.grant(str(KEY), role)
        self.register(str(KEY))

    def register(self, key_name: str) -> None:
        """Anthropic's record, naming this key."""
        self.world.admin.external_keys[EXTERNAL_KEY] = StoredExternalKey(
            id=EXTERNAL_KEY,
            sequence=self.world.admin.next_sequence(),
            created_at="2026-11-01T00:00:00+00:00",
            updated_at="2026-11-01T00:00:00+00:00",
            display_name="payments-prod",
            geo="us",
            provider_config=GcpConfig(type="gcp", key_name=key_name),
            user_profile_id=None,
        )

    @property
    def stored_key(self) -> kms_v1.CryptoKey:
        """The key as stored, to change what no API call could."""
        return self.world.kms.crypto_keys[str(KEY)]

    def version_state(self, state: State) -> None:
        """The state of the primary version."""
        self.world.kms.versions[str(KEY)][1].state = state

    def schedule_destruction(self) -> None:
        """The primary version, in 30 days."""
        request = kms_v1.DestroyCryptoKeyVersionRequest(name=f"{KEY}/cryptoKeyVersions/1")
        administrator = self.world.identities.administrator
        kms_versions.destroy_crypto_key_version(self.world, administrator, request)

    def grant(
        self, resource: str, role: str, member: str = MEMBER, condition: str | None = None
    ) -> None:
        """Add a binding to any resource's policy."""
        policy = self._policy(resource)
        binding = policy.bindings.add(role=role, members=[member])
        if condition:
            binding.condition.title = "a condition"
            binding.condition.expression = condition
        self._write(resource, policy)

    def revoke(self, role: str) -> None:
        """Take a role away from Anthropic's account on the key."""
        policy = self._policy(str(KEY))
        kept = [binding for binding in policy.bindings if binding.role != role]
        del policy.bindings[:]
        policy.bindings.extend(kept)
        self._write(str(KEY), policy)

    def audit(self, resource: str, kinds: list[str], *, service: str, exempted: str = "") -> None:
        """An audit configuration on project, folder or organization."""
        policy = self._policy(resource)
        logs = [
            policy_pb2.AuditLogConfig(
                log_type=policy_pb2.AuditLogConfig.LogType.Value(kind),
                exempted_members=[exempted] if exempted else [],
            )
            for kind in kinds
        ]
        policy.audit_configs.add(service=service, audit_log_configs=logs)
        self._write(resource, policy)

    def perimeter(self, part: str = "status", **config: Any) -> None:
        """A perimeter around the project that restricts Cloud KMS."""
        inside: Json = {
            "resources": [f"projects/{NUMBER}"],
            "restrictedServices": ["cloudkms.googleapis.com"],
        }
        perimeter: Json = {
            "name": f"{ACCESS_POLICY}/servicePerimeters/vault",
            "title": "vault",
            part: inside | config,
        }
        if part == "spec":
            perimeter["useExplicitDryRunSpec"] = True
        self.world.google.perimeters = {ACCESS_POLICY: [perimeter]}

    def rules(self, constraint: str, *rules: Json) -> None:
        """An organization policy's effective rules."""
        self.world.google.policy_rules = {constraint: list(rules)}

    def deny(self, *permissions: str) -> None:
        """Take permissions from the caller."""
        for permission in permissions:
            self.world.identities.administrator.deny(permission)

    def fault(self, call: str, status: int | str = 503, **fields: Any) -> None:
        """Make every attempt of a call fail."""
        self.world.faults.add(Fault(call=call, status=status, times=50, **fields))

    def _policy(self, resource: str) -> policy_pb2.Policy:
        return read_policy(self.world, resource, 3)

    def _write(self, resource: str, policy: policy_pb2.Policy) -> None:
        policy.version = 3
        write_policy(self.world, resource, policy, NUMBER)
