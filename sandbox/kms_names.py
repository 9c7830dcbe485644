"""Resource names of requests: parsed, their project made canonical, their location known."""

from __future__ import annotations

import re
from typing import Final

from cmek.names import KMS_ID_PATTERN, PROJECT_ID_PATTERN
from sandbox.kms_errors import invalid, misrouted, permission_denied
from sandbox.kms_locations import LOCATIONS
from sandbox.kms_state import Project
from sandbox.world import World

_PROJECT: Final = rf"projects/(?:{PROJECT_ID_PATTERN}|[0-9]+)"
_LOCATION: Final = rf"{_PROJECT}/locations/[a-z0-9-]+"
_RING: Final = rf"{_LOCATION}/keyRings/{KMS_ID_PATTERN}"
_KEY: Final = rf"{_RING}/cryptoKeys/{KMS_ID_PATTERN}"
_PATTERNS: Final = {
    "Project": re.compile(_PROJECT),
    "Location": re.compile(_LOCATION),
    "KeyRing": re.compile(_RING),
    "CryptoKey": re.compile(_KEY),
    "CryptoKeyVersion": re.compile(rf"{_KEY}/cryptoKeyVersions/[0-9]+"),
}


def kind_of(name: str) -> str | None:
    """`Project`, `Location`, `KeyRing`, `CryptoKey`, `CryptoKeyVersion`, or None."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.fullmatch(name)), None)


def canonical(world: World, name: str, kind: str, permission: str) -> str:
    """The name with the project's id, after checks that come before any permission.

    Raises:
        GoogleError: INVALID_ARGUMENT for a name of another shape; NOT_FOUND with the misrouting
            text for an unknown location; PERMISSION_DENIED for an unknown project.
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


def check_id(text: str, field: str) -> str:
    """A key ring's or key's id.

    Raises:
        GoogleError: INVALID_ARGUMENT unless it matches `[a-zA-Z0-9_-]{1,63}`.
    """
    if not re.fullmatch(KMS_ID_PATTERN, text):
        raise invalid(f"{field} '{text}' does not match [a-zA-Z0-9_-]{{1,63}}.")
    return text


def parent(name: str) -> str:
    """The containing resource: `projects/p/locations/l/keyRings/r` → `projects/p/locations/l`."""
    return name.rsplit("/", 2)[0]


def location_of(name: str) -> str:
    """The location's id in a resource name."""
    return name.split("/")[3]


def project_of(world: World, name: str) -> Project:
    """The project that a canonical name lies in."""
    return world.kms.projects[name.split("/")[1]]


def key_of(version: str) -> str:
    """The key's name in a key's or version's name."""
    return "/".join(version.split("/")[:8])
