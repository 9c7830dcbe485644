"""Put the sandbox's world into a state in which one thing is wrong."""

from __future__ import annotations

from typing import Any

from google.cloud import kms_v1
from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.names import KeyName
from sandbox import seed
from sandbox.world import ACCESS_POLICY, Json
from tests.support.world import NUMBER, SandboxWorld

__all__ = ["EXTERNAL_KEY", "FOLDER", "KEY", "NUMBER", "ORGANIZATION", "PROJECT", "WORKSPACE"]
__all__ += ["Stage", "State"]
KEY = KeyName("acme-kms-prod", "us-east5", "anthropic-cmek", "payments-prod")
PROJECT = "projects/acme-kms-prod"
FOLDER = "folders/345678901234"
ORGANIZATION = "organizations/567890123456"
WORKSPACE = seed.fixed_id("wrkspc", "PaymentsProd")
EXTERNAL_KEY = seed.fixed_id("ekey", "PaymentsProd")
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState


class Stage(SandboxWorld):
    """A world whose parts tests change directly, each method for one thing."""

    def reset(self) -> None:
        """A project under a folder with everything in order, and no ring, key or registration."""
        seed.reset(self.world, minimal=True)
        self.world.kms.projects[KEY.project].ancestors = [FOLDER, ORGANIZATION]

    def ring(self) -> None:
        """The key ring."""
        self.make_ring(KEY.key_ring_name)

    def key(self, *, skip_version: bool = False, **fields: Any) -> None:
        """The ring and the key with label and both grants, registered at Anthropic."""
        self.ring()
        self.create_key(str(KEY), skip_version=skip_version, **fields)
        for role in ROLES:
            self.grant(str(KEY), role)
        self.register(str(KEY))

    def register(self, key_name: str) -> None:
        """Anthropic's record, naming this key."""
        self.create_external_key(EXTERNAL_KEY, "payments-prod", key_name)

    @property
    def stored_key(self) -> kms_v1.CryptoKey:
        """The key as stored, to change what no API call could."""
        return self.world.kms.crypto_keys[str(KEY)]

    def version_state(self, state: int) -> None:
        """The state of the primary version."""
        self.world.kms.versions[str(KEY)][1].state = State(state)

    def schedule_destruction(self) -> None:
        """The primary version, in 30 days."""
        version = f"{KEY}/cryptoKeyVersions/1"
        self.administer(kms_v1.DestroyCryptoKeyVersionRequest(name=version))

    def grant(
        self, resource: str, role: str, member: str = MEMBER, condition: str | None = None
    ) -> None:
        """Add a binding to any resource's policy."""
        self.bind(resource, role, member, condition)

    def revoke(self, role: str) -> None:
        """Take a role away from Anthropic's account on the key."""
        with self.policy_change(str(KEY)) as policy:
            kept = [binding for binding in policy.bindings if binding.role != role]
            del policy.bindings[:]
            policy.bindings.extend(kept)

    def audit(self, resource: str, kinds: list[str], *, service: str, exempted: str = "") -> None:
        """An audit configuration on project, folder or organization."""
        logs = [
            policy_pb2.AuditLogConfig(
                log_type=policy_pb2.AuditLogConfig.LogType.Value(kind),
                exempted_members=[exempted] if exempted else [],
            )
            for kind in kinds
        ]
        with self.policy_change(resource) as policy:
            policy.audit_configs.add(service=service, audit_log_configs=logs)

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
