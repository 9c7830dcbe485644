"""May the caller do what the flow will do: before anything exists, and on what exists already.

`testIamPermissions` tells the caller's rights only, never Anthropic's. Source: guide, "Before you
begin" (roles/cloudkms.admin or equal).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cmek.checks.commands import make_admin
from cmek.checks.findings import Findings
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Answer, Read, Refused, value_of
from cmek.request import OnboardingRequest

ON_KEY: Final = (
    "cloudkms.cryptoKeys.get",
    "cloudkms.cryptoKeys.update",
    "cloudkms.cryptoKeys.getIamPolicy",
    "cloudkms.cryptoKeys.setIamPolicy",
    "cloudkms.cryptoKeyVersions.list",
)
ON_RING: Final = ("cloudkms.cryptoKeys.create", *ON_KEY)
ON_PROJECT: Final = (
    "cloudkms.locations.get",
    "cloudkms.keyRings.get",
    "cloudkms.keyRings.create",
    *ON_RING,
)
"""What onboarding calls for, from a project where nothing exists yet."""

CALLER_ON_PROJECT: Final = Prerequisite(
    "caller_on_project",
    "Caller may make key ring, key and grants",
    ("cloudresourcemanager.projects.testIamPermissions (v3)",),
    "whoever administers IAM of the project",
    "The run would stop half-way, with a key ring whose name stays taken.",
)
CALLER_ON_EXISTING: Final = Prerequisite(
    "caller_on_existing",
    "Caller may use the ring or key that exists",
    ("cloudkms TestIamPermissions on the ring and on the key",),
    "whoever administers IAM of the key ring",
    "Rights may be given, or denied, on the ring or the key alone.",
)


def check_caller_on_project(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """All rights on the project, unless the ring exists: then its own rights decide."""
    project, read = request.key_name.project, findings.google.project_permissions
    if isinstance(read, Refused):
        yield CALLER_ON_PROJECT.unknown(read)
        return
    ring_exists = value_of(findings.kms.key_ring) is not None
    needed = ("cloudkms.locations.get",) if ring_exists else ON_PROJECT
    missing = [one for one in needed if one not in read.value]
    if missing:
        yield CALLER_ON_PROJECT.failed(
            f"missing on project {project}: {', '.join(missing)}",
            make_admin(f"projects/{project}", findings.google.caller),
        )
    else:
        note = "; the key ring exists, its own rights count" if ring_exists else ""
        yield CALLER_ON_PROJECT.passed(f"all granted on project {project}: {len(needed)}{note}")


def check_caller_on_existing(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """On an existing key, else on an existing ring."""
    key = request.key_name
    if isinstance(findings.kms.key_ring, Refused) and value_of(findings.kms.key) is None:
        yield CALLER_ON_EXISTING.unknown(findings.kms.key_ring)
    elif isinstance(findings.kms.key, Refused):
        yield CALLER_ON_EXISTING.unknown(findings.kms.key)
    elif value_of(findings.kms.key) is not None:
        remedy = make_admin(str(key), findings.google.caller)
        yield _judge(str(key), findings.kms.key_permissions, ON_KEY, remedy)
    elif value_of(findings.kms.key_ring) is not None:
        remedy = make_admin(key.key_ring_name, findings.google.caller)
        yield _judge(key.key_ring_name, findings.kms.ring_permissions, ON_RING, remedy)
    else:
        yield CALLER_ON_EXISTING.passed(f"{key.key_ring_name} does not exist yet")


def _judge(
    resource: str, read: Read[frozenset[str]] | None, needed: tuple[str, ...], remedy: str
) -> Check:
    if not isinstance(read, Answer):
        return CALLER_ON_EXISTING.unknown(read or f"rights on {resource} were not read")
    missing = [one for one in needed if one not in read.value]
    if missing:
        return CALLER_ON_EXISTING.failed(f"missing on {resource}: {', '.join(missing)}", remedy)
    return CALLER_ON_EXISTING.passed(f"all granted on {resource}: {len(needed)}")
