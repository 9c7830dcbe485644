"""Put the sandbox's world into a state with one fault."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from google.cloud import kms_v1
from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.names import KeyName
from sandbox import seed
from sandbox.kms.state import GoogleProject
from sandbox.world import ACCESS_POLICY, Json, World
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


@dataclass
class Stage(SandboxWorld):
    """A world with one key; each method changes one part of its state directly."""

    name: KeyName = KEY
    external_key_id: str = EXTERNAL_KEY

    @classmethod
    def beside(cls, world: World, number: int) -> Stage:
        """The same key in a project of its own, so that many can be staged in one world."""
        project = f"acme-kms-{number:03}"
        world.kms.projects[project] = GoogleProject(project, str(200000000000 + number))
        return cls(
            world, replace(KEY, project=project), seed.fixed_id("ekey", f"Staged{number:03}")
        )

    def reset(self) -> None:
        """Reset to a healthy project under a folder, without ring, key or registration."""
        seed.reset(self.world, minimal=True)
        self.world.kms.projects[KEY.project].ancestors = [FOLDER, ORGANIZATION]

    @property
    def project(self) -> str:
        """The resource name of the key's project."""
        return f"projects/{self.name.project}"

    def ring(self) -> None:
        """Make the key ring."""
        self.make_ring(self.name.key_ring_name)

    def key(self, **fields: Any) -> None:
        """Make the ring and the key with label, rotation and both grants, and register it."""
        self.ring()
        self.create_rotated_key(str(self.name), **fields)
        for role in ROLES:
            self.grant(str(self.name), role)
        self.register(str(self.name))

    def register(self, key_name: str) -> None:
        """Make Anthropic's record of a key with this name."""
        self.create_external_key(self.external_key_id, "payments-prod", key_name)

    @property
    def stored_key(self) -> kms_v1.CryptoKey:
        """The key as stored, for changes that no API call can make."""
        return self.world.kms.crypto_keys[str(self.name)]

    def update(self, **fields: Any) -> None:
        """Change fields of the key."""
        self.update_key(str(self.name), **fields)

    def rotate(self) -> None:
        """Make a new version the primary."""
        self.rotate_key(str(self.name))

    def disable(self, version: int = 1) -> None:
        """Disable a version."""
        self.set_version_state(self._version(version), "DISABLED")

    def destroy(self, version: int = 1) -> None:
        """Schedule a version's destruction."""
        self.schedule_destruction(self._version(version))

    def version_state(self, state: str) -> None:
        """Set the state of the first version, also to one that no API call can set."""
        self.world.kms.versions[str(self.name)][1].state = getattr(State, state)

    def _version(self, number: int) -> str:
        return f"{self.name}/cryptoKeyVersions/{number}"

    def grant(
        self, resource: str, role: str, member: str = MEMBER, condition: str | None = None
    ) -> None:
        """Add a binding to any resource's policy."""
        self.bind(resource, role, member, condition)

    def revoke(self, role: str) -> None:
        """Take a role away from Anthropic's account on the key."""
        with self.policy_change(str(self.name)) as policy:
            kept = [binding for binding in policy.bindings if binding.role != role]
            del policy.bindings[:]
            policy.bindings.extend(kept)

    def audit(self, resource: str, kinds: list[str], *, service: str, exempted: str = "") -> None:
        """Add an audit configuration on project, folder or organization."""
        logs = [
            policy_pb2.AuditLogConfig(
                log_type=policy_pb2.AuditLogConfig.LogType.Value(kind),
                exempted_members=[exempted] if exempted else [],
            )
            for kind in kinds
        ]
        with self.policy_change(resource) as policy:
            policy.audit_configs.add(service=service, audit_log_configs=logs)

    def perimeter(self, part: str = "status", *, name: str = "vault", **config: Any) -> None:
        """A perimeter around the project that restricts Cloud KMS; a second call adds to it."""
        inside: Json = {
            "resources": [f"projects/{NUMBER}"],
            "restrictedServices": ["cloudkms.googleapis.com"],
        }
        listed = self.world.google.perimeters.setdefault(ACCESS_POLICY, [])
        perimeter = next((one for one in listed if one["title"] == name), None)
        if perimeter is None:
            perimeter = {"name": f"{ACCESS_POLICY}/servicePerimeters/{name}", "title": name}
            listed.append(perimeter)
        perimeter[part] = inside | config
        if part == "spec":
            perimeter["useExplicitDryRunSpec"] = True

    def rules(self, constraint: str, *rules: Json) -> None:
        """Set an organization policy's effective rules."""
        self.world.google.policy_rules = {constraint: list(rules)}

    def deny(self, *permissions: str) -> None:
        """Take permissions from the caller."""
        for permission in permissions:
            self.world.identities.administrator.deny(permission)
