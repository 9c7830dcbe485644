"""What Cloud KMS remembers: projects, key rings, keys, versions, key material, policies."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from google.cloud import kms_v1
from google.iam.v1 import policy_pb2

from sandbox.identities import PROJECT_ID
from sandbox.kms_messages import from_json, to_json
from sandbox.org_constraints import OrgConstraints

PROJECT_NUMBER: Final = "123456789012"
ORGANIZATION: Final = "organizations/567890123456"


@dataclass(slots=True)
class Project:
    """A Google Cloud project; both its id and its number name it in requests."""

    id: str
    number: str
    ancestors: list[str] = field(default_factory=lambda: [ORGANIZATION])
    """Resource names from the parent up to the organization, whose policies are inherited."""


@dataclass(slots=True)
class StoredPolicy:
    """A resource's IAM policy, and since when each of its grants has stood there."""

    policy: policy_pb2.Policy
    since: dict[str, datetime] = field(default_factory=dict)
    """`role member condition` → time of the write that brought it."""


class KmsState:
    """All resources by canonical name (project id, never number)."""

    def __init__(self) -> None:
        self.projects = {PROJECT_ID: Project(PROJECT_ID, PROJECT_NUMBER)}
        self.key_rings: dict[str, kms_v1.KeyRing] = {}
        self.crypto_keys: dict[str, kms_v1.CryptoKey] = {}
        """A key's `primary` holds only the version's name; readers fill in the rest."""
        self.versions: dict[str, dict[int, kms_v1.CryptoKeyVersion]] = {}
        """Key name → version number → version."""
        self.material: dict[str, bytes] = {}
        """Version name → AES-256 key; gone once the version is destroyed."""
        self.ready_at: dict[str, datetime] = {}
        """Version name → when PENDING_GENERATION ends."""
        self.policies: dict[str, StoredPolicy] = {}
        self.policy_writes = 0
        self.constraints = OrgConstraints()
        self.locations_without_hsm: set[str] = set()

    def project(self, id_or_number: str) -> Project | None:
        """The project of that id or number."""
        by_number = {project.number: project for project in self.projects.values()}
        return self.projects.get(id_or_number) or by_number.get(id_or_number)

    def dump(self) -> dict[str, Any]:
        """As plain JSON, key material included."""
        return {
            "projects": [
                {"id": one.id, "number": one.number, "ancestors": one.ancestors}
                for one in self.projects.values()
            ],
            "key_rings": [to_json(one) for one in self.key_rings.values()],
            "crypto_keys": [to_json(one) for one in self.crypto_keys.values()],
            "versions": {
                key: {str(number): to_json(one) for number, one in of_key.items()}
                for key, of_key in self.versions.items()
            },
            "material": {
                name: base64.b64encode(secret).decode() for name, secret in self.material.items()
            },
            "ready_at": {name: at.isoformat() for name, at in self.ready_at.items()},
            "policies": {
                name: {
                    "policy": to_json(one.policy),
                    "since": {grant: at.isoformat() for grant, at in one.since.items()},
                }
                for name, one in self.policies.items()
            },
            "policy_writes": self.policy_writes,
            "constraints": self.constraints.model_dump(mode="json"),
            "locations_without_hsm": sorted(self.locations_without_hsm),
        }

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> KmsState:
        """What `dump` gave, back again."""
        state = cls()
        state.projects = {one["id"]: Project(**one) for one in dumped["projects"]}
        rings = (from_json(kms_v1.KeyRing, one) for one in dumped["key_rings"])
        state.key_rings = {ring.name: ring for ring in rings}
        keys = (from_json(kms_v1.CryptoKey, one) for one in dumped["crypto_keys"])
        state.crypto_keys = {key.name: key for key in keys}
        state.versions = {
            key: {
                int(number): from_json(kms_v1.CryptoKeyVersion, one)
                for number, one in of_key.items()
            }
            for key, of_key in dumped["versions"].items()
        }
        state.material = {
            name: base64.b64decode(secret) for name, secret in dumped["material"].items()
        }
        state.ready_at = _times(dumped["ready_at"])
        state.policies = {
            name: StoredPolicy(from_json(policy_pb2.Policy, one["policy"]), _times(one["since"]))
            for name, one in dumped["policies"].items()
        }
        state.policy_writes = dumped["policy_writes"]
        state.constraints = OrgConstraints.model_validate(dumped["constraints"])
        state.locations_without_hsm = set(dumped["locations_without_hsm"])
        return state


def _times(dumped: dict[str, str]) -> dict[str, datetime]:
    return {name: datetime.fromisoformat(at) for name, at in dumped.items()}
