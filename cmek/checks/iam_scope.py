"""Who else can use the key: broader grants of Anthropic's account, the public, impostors.

Source: guide step 3 (both roles on the key itself); CIS Google Cloud Foundations 1.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import ROLES
from cmek.checks.commands import revoke
from cmek.checks.findings import Findings
from cmek.checks.members import Grant, describe, grants_in, of_kind
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Answer, Read
from cmek.request import OnboardingRequest

READS: Final = (
    "cloudkms GetIamPolicy on the ring and on the key",
    "cloudresourcemanager getIamPolicy on project, folders, organization (v3)",
)
WHO: Final = (
    "whoever has getIamPolicy on key ring, project, folders and organization "
    "(roles/iam.securityReviewer)"
)
KMS_ROLES: Final = ("roles/cloudkms.", "roles/owner", "roles/editor", "roles/viewer")
"""Roles by which a binding above the ring reaches into Cloud KMS."""

BROADER: Final = Prerequisite(
    "broader_grants",
    "Anthropic's account has the two roles on the key only",
    READS,
    WHO,
    "A grant above the key lets Anthropic's account use every key below it.",
)
PUBLIC: Final = Prerequisite(
    "public_members",
    "The public has no access to key and ring",
    READS,
    WHO,
    "Anybody, or anybody with a Google account, could use or inspect the key.",
)
IMPOSTORS: Final = Prerequisite(
    "look_alike_members",
    "Nobody only looks like Anthropic's account",
    READS,
    WHO,
    "A spoofed account with the crypto role can read the data; a deleted one can do nothing.",
)


def check_broader(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Whatever Anthropic's account has beyond the two roles on the key."""
    grants, unreadable = _grants(request, findings)
    key = str(request.key_name)
    broader = [
        one
        for one in of_kind(grants, "anthropic")
        if not (one.resource == key and one.role in ROLES)
    ]
    if broader:
        yield BROADER.warned(describe(broader), _revoke_all(broader))
    else:
        yield _nothing_found(BROADER, unreadable)


def check_public(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """`allUsers` and `allAuthenticatedUsers`."""
    grants, unreadable = _grants(request, findings)
    public = of_kind(grants, "public")
    if public:
        yield PUBLIC.failed(describe(public), _revoke_all(public))
    else:
        yield _nothing_found(PUBLIC, unreadable)


def check_impostors(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Look-alikes fail, deleted accounts warn; both are named."""
    grants, unreadable = _grants(request, findings)
    alike, deleted = of_kind(grants, "look_alike"), of_kind(grants, "deleted")
    if alike:
        yield IMPOSTORS.failed(describe(alike + deleted), _revoke_all(alike + deleted))
    elif deleted:
        yield IMPOSTORS.warned(describe(deleted), _revoke_all(deleted))
    else:
        yield _nothing_found(IMPOSTORS, unreadable)


def _grants(request: OnboardingRequest, findings: Findings) -> tuple[list[Grant], list[str]]:
    """All bindings on key and ring, those above that reach Cloud KMS, and what was unreadable."""
    key = request.key_name
    below: dict[str, Read[policy_pb2.Policy] | None] = {
        str(key): findings.kms.key_policy,
        key.key_ring_name: findings.kms.ring_policy,
    }
    grants: list[Grant] = []
    for resource, read in (below | dict(findings.google.policies)).items():
        if isinstance(read, Answer):
            everywhere = grants_in(resource, read.value)
            grants += [
                one for one in everywhere if resource in below or one.role.startswith(KMS_ROLES)
            ]
    unreadable = [
        resource
        for resource, read in (below | dict(findings.google.policies)).items()
        if read is not None and not isinstance(read, Answer)
    ]
    hidden = _hidden(request, findings)
    return grants, unreadable + hidden


def _hidden(request: OnboardingRequest, findings: Findings) -> list[str]:
    """Policies that nobody asked for, since already the resource could not be read."""
    key = request.key_name
    reads = {
        str(key): findings.kms.key,
        key.key_ring_name: findings.kms.key_ring,
        "folders and organization": findings.google.ancestors,
    }
    return [name for name, read in reads.items() if not isinstance(read, Answer)]


def _nothing_found(check: Prerequisite, unreadable: list[str]) -> Check:
    if unreadable:
        return check.unknown(f"nothing found where we can read; not readable: {_list(unreadable)}")
    return check.passed("nothing found on key, ring, project and above")


def _list(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _revoke_all(grants: list[Grant]) -> str:
    return " && ".join(revoke(one.resource, one.member, one.role) for one in grants)
