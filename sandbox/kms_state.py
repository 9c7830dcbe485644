"""What Cloud KMS remembers: projects, key rings, keys, versions, key material, policies."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from google.cloud import kms_v1
from google.iam.v1 import policy_pb2

from sandbox.identities import PROJECT_ID
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
