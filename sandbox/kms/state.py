"""What Cloud KMS stores, the names of its resources, and its messages as JSON.

Every location has HSM, except those in `KmsState.locations_without_hsm`.
Source of the locations: https://docs.cloud.google.com/kms/docs/locations
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from google.cloud import kms_v1
from google.iam.v1 import policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.protobuf.message import Message as RawMessage

from cmek.names import KMS_ID_PATTERN, PROJECT_ID_PATTERN, US_SINGLE_REGIONS
from sandbox.errors import invalid, misrouted, permission_denied
from sandbox.identities import PROJECT_ID
from sandbox.org_policy import OrgConstraints
from sandbox.world import World

PROJECT_NUMBER: Final = "123456789012"
ORGANIZATION: Final = "organizations/567890123456"


@dataclass(slots=True)
class GoogleProject:
    """A Google Cloud project; both its id and its number name it in requests."""

    id: str
    number: str
    ancestors: list[str] = field(default_factory=lambda: [ORGANIZATION])
    """Resource names from the parent up to the organization, whose policies are inherited."""


@dataclass(slots=True)
class StoredPolicy:
    """A resource's IAM policy, and when each of its grants was first written."""

    policy: policy_pb2.Policy
    since: dict[str, datetime] = field(default_factory=dict)
    """`role member condition` → time of the write that added it."""


class KmsState:
    """All resources by canonical name (project id, never number)."""

    def __init__(self) -> None:
        self.projects = {PROJECT_ID: GoogleProject(PROJECT_ID, PROJECT_NUMBER)}
        self.key_rings: dict[str, kms_v1.KeyRing] = {}
        self.crypto_keys: dict[str, kms_v1.CryptoKey] = {}
        """A key's `primary` holds only the version's name; readers fill in the rest."""
        self.versions: dict[str, dict[int, kms_v1.CryptoKeyVersion]] = {}
        """Key name → version number → version."""
        self.last_number: dict[str, int] = {}
        """Key name → the highest number that a version of it ever had."""
        self.retired: dict[str, kms_v1.RetiredResource] = {}
        self.operations: dict[str, operations_pb2.Operation] = {}
        self.material: dict[str, bytes] = {}
        """Version name → AES-256 key; removed when the version is destroyed."""
        self.ready_at: dict[str, datetime] = {}
        """Version name → when PENDING_GENERATION ends."""
        self.policies: dict[str, StoredPolicy] = {}
        self.policy_writes = 0
        self.constraints = OrgConstraints()
        self.locations_without_hsm: set[str] = set()

    def project(self, id_or_number: str) -> GoogleProject | None:
        """The project of that id or number."""
        by_number = {project.number: project for project in self.projects.values()}
        return self.projects.get(id_or_number) or by_number.get(id_or_number)


MULTI_REGIONS: Final = (
    "global", "us", "ca", "europe", "eur3", "eur4", "eur5", "eur6", "asia", "asia1", "nam3", "nam4",
    "nam6", "nam7", "nam8", "nam9", "nam10", "nam11", "nam12",
)  # fmt: skip
REGIONS_ELSEWHERE: Final = (
    "asia-east1", "asia-northeast1", "asia-south1", "asia-southeast1", "australia-southeast1",
    "europe-north1", "europe-west1", "europe-west2", "europe-west3", "europe-west4",
    "europe-west6", "northamerica-northeast1", "southamerica-east1",
)  # fmt: skip
LOCATIONS: Final = tuple(sorted((*US_SINGLE_REGIONS, *MULTI_REGIONS, *REGIONS_ELSEWHERE)))


PROJECT_IN_PATH: Final = r"(?:[^/:]+\.[^/:]+:)?[^/:]+"
"""A project's id or number in a URL; an old id begins with a domain and a colon."""


def name_patterns(project: str, location: str, id_: str, number: str) -> dict[str, str]:
    """Kind of resource → the pattern of its names, from the patterns of their parts."""
    in_location = f"projects/{project}/locations/{location}"
    key = f"{in_location}/keyRings/{id_}/cryptoKeys/{id_}"
    return {
        "Project": f"projects/{project}",
        "Location": in_location,
        "KeyRing": f"{in_location}/keyRings/{id_}",
        "CryptoKey": key,
        "CryptoKeyVersion": f"{key}/cryptoKeyVersions/{number}",
        "RetiredResource": f"{in_location}/retiredResources/{id_}",
        "Operation": f"{in_location}/operations/{id_}",
    }


_PATTERNS: Final = {
    kind: re.compile(pattern)
    for kind, pattern in name_patterns(
        f"(?:{PROJECT_ID_PATTERN}|[0-9]+)", "[a-z0-9-]+", KMS_ID_PATTERN, "[0-9]+"
    ).items()
}


def kind_of(name: str) -> str | None:
    """`Project`, `Location`, `KeyRing`, `CryptoKey`, `CryptoKeyVersion`, or None."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.fullmatch(name)), None)


def canonical(world: World, name: str, kind: str, permission: str) -> str:
    """The name with the project's id, after the checks that come before any permission.

    Raises INVALID_ARGUMENT for another shape, NOT_FOUND for an unknown location (with the text of
    the real service), PERMISSION_DENIED for an unknown project.
    """
    if not _PATTERNS[kind].fullmatch(name):
        raise invalid(f"Resource name '{name}' is not the name of a {kind}.")
    _, given, *rest = name.split("/")
    if len(rest) > 1 and rest[1] not in LOCATIONS:
        raise misrouted(rest[1])
    project = world.kms.project(given)
    if project is None:
        raise permission_denied(permission, name)
    return "/".join(["projects", project.id, *rest])


def canonical_project(world: World, name: str) -> str:
    """The name, with a known project's number replaced by its id."""
    head, _, rest = name.removeprefix("projects/").partition("/")
    project = world.kms.project(head) if name.startswith("projects/") else None
    return "/".join(["projects", project.id, rest]).rstrip("/") if project else name


def check_id(text: str, field: str) -> str:
    """A key ring's or key's id. Raises INVALID_ARGUMENT unless it matches `[a-zA-Z0-9_-]{1,63}`."""
    if not re.fullmatch(KMS_ID_PATTERN, text):
        raise invalid(f"{field} '{text}' does not match [a-zA-Z0-9_-]{{1,63}}.")
    return text


def location_of(name: str) -> str:
    """The location's id in a resource name."""
    return name.split("/")[3]


def project_of(world: World, name: str) -> GoogleProject:
    """The project that a canonical name lies in."""
    return world.kms.projects[name.split("/")[1]]


def key_of(version: str) -> str:
    """The key's name in a key's or version's name."""
    return "/".join(version.split("/")[:8])


def raw(message: Any) -> RawMessage:  # noqa: ANN401 - proto-plus or plain protobuf
    """The plain protobuf message of a proto-plus one; a plain one is returned unchanged."""
    unwrap = getattr(type(message), "pb", None)
    plain: RawMessage = unwrap(message) if unwrap else message
    return plain


def to_json(message: Any, *, enums_as_ints: bool = False) -> dict[str, Any]:  # noqa: ANN401
    """JSON as Google's REST surface writes it: camelCase, empty fields left out."""
    made: dict[str, Any] = json_format.MessageToDict(
        raw(message), use_integers_for_enums=enums_as_ints
    )
    return made


def from_json(kind: type[Any], data: dict[str, Any]) -> Any:  # noqa: ANN401
    """A message of `kind` from its JSON. Raises `json_format.ParseError`."""
    message = kind()
    json_format.ParseDict(data, raw(message))
    return message


def camel(path: str) -> str:
    """`create_time` → `createTime`."""
    head, *rest = path.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)
