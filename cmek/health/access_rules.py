"""Rules about who may use the key: both grants, and nobody who should not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, ROLES, SERVICE_ACCOUNT
from cmek.checks.commands import grant, revoke
from cmek.checks.outcome import Answer, Refused
from cmek.health.reading import KeyReading
from cmek.health.rule import Finding
from cmek.key_policy import DECRYPTING_ROLES

PUBLIC: Final = frozenset({"allUsers", "allAuthenticatedUsers"})
ENCRYPT_ONLY: Final = "roles/cloudkms.cryptoKeyEncrypter"
COVERING: Final = {
    ENCRYPTER_DECRYPTER: frozenset({ENCRYPTER_DECRYPTER, "roles/owner"}),
    ROLES[1]: frozenset({ROLES[1], "roles/cloudkms.admin", "roles/owner", "roles/viewer"}),
}
"""Roles that hold at least what a grant holds."""
ADMIN: Final = "roles/cloudkms.admin"


def grant_missing(reading: KeyReading) -> Iterator[Finding]:
    """Anthropic can't read or use the key without both roles."""
    for role in () if hangs_on_project(reading) else _unheld(reading):
        lost = any(
            binding.role == role and any(_is_deleted_twin(m) for m in binding.members)
            for _, binding in reading.bindings()
        )
        why = " (there is one for a deleted account of that name)" if lost else ""
        yield Finding(
            f"the grant of {role} to Anthropic's service account is missing{why}",
            (grant(reading.name, role),) if reading.name else (),
            role,
        )


def grant_conditional(reading: KeyReading) -> Iterator[Finding]:
    """A grant under a condition may be refused at any moment."""
    for role in _lacking(reading):
        for condition in _conditions(reading, role):
            yield Finding(
                f"the grant of {role} holds only under the condition {condition}",
                (grant(reading.name, role),) if reading.name else (),
                role,
            )


def grant_inherited(reading: KeyReading) -> Iterator[Finding]:
    """It works, but by a grant on ring or project, which somebody may clean up."""
    for role in _lacking(reading):
        if _inherited(reading, role) and not _conditions(reading, role):
            yield Finding(
                f"the grant of {role} is on the key ring or project only, not on the key",
                (grant(reading.name, role),) if reading.name else (),
                role,
            )


def public_member(reading: KeyReading) -> Iterator[Finding]:
    """Anybody may do with the key what this role allows."""
    for where, binding in reading.bindings_above():
        for member in sorted(PUBLIC & set(binding.members)):
            yield Finding(
                f"{member} has {binding.role} on {where}",
                (revoke(where, member, binding.role),),
                f"{where} {binding.role} {member}",
            )


def foreign_decrypter(reading: KeyReading) -> Iterator[Finding]:
    """Somebody else may decrypt; those who could when it was recorded are known."""
    known = set(reading.baseline.decrypters) if reading.baseline else set()
    for where, binding in reading.bindings():
        if binding.role not in DECRYPTING_ROLES - {ENCRYPT_ONLY}:
            continue
        for member in binding.members:
            if member == MEMBER or member in known or member in PUBLIC or _is_deleted(member):
                continue
            yield Finding(
                f"{member} may decrypt ({binding.role} on {where})",
                (revoke(where, member, binding.role),),
                f"{where} {binding.role} {member}",
            )


def broader_grant(reading: KeyReading) -> Iterator[Finding]:
    """Anthropic's service account holds more than the guide gives it."""
    for where, binding in reading.bindings_above():
        on_key_itself = where == reading.registered_name
        if MEMBER in binding.members and not (on_key_itself and binding.role in ROLES):
            yield Finding(
                f"Anthropic's service account has {binding.role} on {where}",
                (revoke(where, MEMBER, binding.role),),
                f"{where} {binding.role}",
            )


def project_unread(reading: KeyReading) -> Iterator[Finding]:
    """Nothing hangs on it, but a grant above the ring would not be seen."""
    if isinstance(reading.project_policy, Refused):
        yield Finding(
            "the project's IAM policy could not be read, so grants there are not seen: "
            f"{reading.project_policy.text}"
        )


def duties_not_separated(reading: KeyReading) -> Iterator[Finding]:
    """One person may both administer the key and use it."""
    admins = _users(reading, {ADMIN})
    for member in sorted(admins & _users(reading, set(DECRYPTING_ROLES) - {"roles/owner"})):
        where = next(w for w, b in reading.bindings() if b.role == ADMIN and member in b.members)
        yield Finding(
            f"{member} both administers the key and may use it",
            (revoke(where, member, ADMIN),),
            member,
        )


def hangs_on_project(reading: KeyReading) -> bool:
    """Whether only the project's policy could tell of a grant, and it was not read.

    What Anthropic can't use either is not in doubt.
    """
    seen = isinstance(reading.policy, Answer) and isinstance(reading.ring_policy, Answer)
    unseen = isinstance(reading.project_policy, Refused) and not reading.anthropic_failed
    return seen and unseen and any(_unheld(reading))


def _unheld(reading: KeyReading) -> Iterator[str]:
    """Roles that Anthropic has nowhere, as far as the policies were read."""
    for role in _lacking(reading):
        if not (_inherited(reading, role) or _conditions(reading, role)):
            yield role


def _lacking(reading: KeyReading) -> Iterator[str]:
    if reading.policy is None:
        return
    held = {
        binding.role
        for where, binding in reading.bindings()
        if where == reading.registered_name
        and MEMBER in binding.members
        and binding.condition is None
    }
    yield from (role for role in ROLES if role not in held)


def _conditions(reading: KeyReading, role: str) -> list[str]:
    return [
        binding.condition
        for _, binding in reading.bindings()
        if binding.role == role and MEMBER in binding.members and binding.condition
    ]


def _inherited(reading: KeyReading, role: str) -> bool:
    return any(
        binding.role in COVERING[role] and MEMBER in binding.members and binding.condition is None
        for where, binding in reading.bindings_above()
        if where != reading.registered_name
    )


def _users(reading: KeyReading, roles: set[str]) -> set[str]:
    return {
        member
        for _, binding in reading.bindings_above()
        if binding.role in roles
        for member in binding.members
        if member.startswith("user:")
    }


def _is_deleted(member: str) -> bool:
    return member.startswith("deleted:")


def _is_deleted_twin(member: str) -> bool:
    return _is_deleted(member) and SERVICE_ACCOUNT in member
