"""The conditions that a key must meet, each written once, with evidence and remedy.

Prerequisites, diagnosis, health, the gate's facts and guide step 2 all use these functions, so that
they can't disagree about a key. Pure.

Source: guide steps 1 to 3; https://docs.cloud.google.com/kms/docs/key-states,
https://docs.cloud.google.com/assured-workloads/key-access-justifications/docs and
https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, ROLES, SERVICE_ACCOUNT, VIEWER
from cmek.gcp.gcloud import grant, import_version, new_primary, on_key, on_version, revoke
from cmek.gcp.iam import DECRYPTING_ELSEWHERE, Grant, PolicyView, describe, kind_of
from cmek.gcp.resources import (
    CUSTOMER_INITIATED,
    EXTERNAL_SYMMETRIC,
    SYMMETRIC,
    CryptoKey,
    KeyVersion,
)
from cmek.names import (
    ORGANIZATION_LABEL_PREFIX,
    WORKSPACE_LABEL_PREFIX,
    KeyName,
    is_custom_role,
    is_us_single_region,
    organization_label,
)

MISSING: Final = "MISSING"
"""Stands for the state of the primary version when there is none."""
NOT_APPLICABLE: Final = "NOT_APPLICABLE"
"""The same for a key whose purpose has no primary version."""
DECRYPTING_ROLES: Final = frozenset(
    {
        "roles/owner",
        "roles/admin",
        "roles/cloudkms.cryptoKeyEncrypterDecrypter",
        "roles/cloudkms.cryptoKeyDecrypter",
        "roles/cloudkms.cryptoKeyEncrypter",
        "roles/cloudkms.cryptoOperator",
        "roles/cloudkms.cryptoKeyEncrypterDecrypterViaDelegation",
        "roles/cloudkms.cryptoKeyDecrypterViaDelegation",
        "roles/cloudkms.cryptoKeyEncrypterViaDelegation",
        *DECRYPTING_ELSEWHERE,
    }
)
"""Roles that allow to encrypt or to decrypt with a key."""
_ENCRYPT_ONLY: Final = frozenset(
    {"roles/cloudkms.cryptoKeyEncrypter", "roles/cloudkms.cryptoKeyEncrypterViaDelegation"}
)
COVERING: Final = {
    ENCRYPTER_DECRYPTER: frozenset({ENCRYPTER_DECRYPTER, "roles/owner"}),
    VIEWER: frozenset({VIEWER, "roles/cloudkms.admin", "roles/owner", "roles/viewer"}),
}
"""For each of the guide's roles: the roles that have at least the same permissions."""
_MAY_COVER: Final = {
    **COVERING,
    ENCRYPTER_DECRYPTER: COVERING[ENCRYPTER_DECRYPTER] | {"roles/cloudkms.cryptoOperator"},
}


def missing_roles(granted: Collection[str]) -> tuple[str, ...]:
    """The guide's roles that are not in `granted`; sorted."""
    return tuple(sorted(set(ROLES).difference(granted)))


def may_decrypt(role: str) -> bool:
    """Whether this role allows to decrypt, or may: the permissions of custom roles are not read."""
    return role in DECRYPTING_ROLES - _ENCRYPT_ONLY or is_custom_role(role)


def may_use(role: str) -> bool:
    """Whether this role allows to encrypt or to decrypt, or may."""
    return role in DECRYPTING_ROLES or is_custom_role(role)


def other_users(policy: policy_pb2.Policy | PolicyView) -> tuple[str, ...]:
    """Members besides Anthropic who can use a key by its own policy, or may; sorted.

    With those under a condition, and deleted ones: they may have used the key before.
    """
    using = {member for one in policy.bindings if may_use(one.role) for member in one.members}
    return tuple(sorted(using - {MEMBER}))


@dataclass(frozen=True, slots=True)
class Condition:
    """Whether one condition holds, with the evidence and the commands that make it hold."""

    holds: bool
    evidence: str
    remedy: tuple[str, ...] = ()
    """Commands, in this order; empty when it can't be changed on this key."""
    doubtful: bool = False
    """It does not hold, but Anthropic may be able to use the key nevertheless."""
    subject: str = ""
    """The version, role or state that it is about."""
    since: datetime | None = None
    final_at: datetime | None = None
    """From when on it can't be undone."""


def symmetric(key: CryptoKey) -> Condition:
    """Purpose ENCRYPT_DECRYPT with a symmetric algorithm; neither can be changed.

    With an external key manager too: Anthropic can use such a key, although we onboard none.
    """
    algorithms = {SYMMETRIC, EXTERNAL_SYMMETRIC}
    holds = key.purpose == "ENCRYPT_DECRYPT" and key.algorithm in algorithms
    return Condition(holds, f"the key is for {key.purpose} with {key.algorithm}")


def protection_level(key: CryptoKey, requested: str) -> Condition:
    """The key has the requested level, which can't be changed."""
    evidence = f"the key's protection level is {key.protection_level}, requested is {requested}"
    return Condition(key.protection_level == requested, evidence)


def cloud_kms_material(key: CryptoKey) -> Condition:
    """The key material is generated in Cloud KMS: no external key manager, not import-only."""
    elsewhere = key.protection_level.startswith("EXTERNAL") or key.algorithm == EXTERNAL_SYMMETRIC
    if elsewhere or key.crypto_key_backend:
        where = key.crypto_key_backend or "an external key manager"
        return Condition(False, f"{key.protection_level}: the key's material is in {where}")
    if key.import_only:
        return Condition(False, "the key is import-only: its material comes from outside")
    return Condition(True, f"{key.protection_level}, generated in Cloud KMS")


def fitting_kind(key: CryptoKey) -> Condition:
    """Purpose, algorithm and origin; they can't be changed, so a wrong one decides alone."""
    of_purpose = symmetric(key)
    return cloud_kms_material(key) if of_purpose.holds else of_purpose


def single_us_region(name: KeyName) -> Condition:
    """The location is one US region: Anthropic supports no other, and a key can't be moved."""
    holds = is_us_single_region(name.location)
    return Condition(holds, f"{name.location} is {'' if holds else 'not '}a single US region")


def primary_version(
    key: CryptoKey, name: KeyName, versions: Sequence[KeyVersion] = ()
) -> Condition:
    """The primary version is ENABLED; `subject` is its state.

    Only symmetric keys have a primary version; for a key of another purpose nothing is missing.

    Args:
        key: As read.
        name: The key's name, for the commands.
        versions: All versions, if they were read: an enabled one can become the primary.
    """
    primary = key.primary
    if primary is None and not symmetric(key).holds:
        evidence = f"a key for {key.purpose} has no primary version"
        return Condition(True, evidence, subject=NOT_APPLICABLE)
    if primary is None:
        # rather an existing version than a new one
        enabled = [version.id for version in versions if version.state == "ENABLED"]
        choose = f"--version={max(enabled, key=int)}" if enabled else ""
        fix = (on_key(name, "set-primary-version", choose),) if enabled else _another(key, name)
        return Condition(False, "the key has no primary version", fix, subject=MISSING)
    evidence = f"primary version {primary.id} is {primary.state}"
    if primary.state == "ENABLED":
        return Condition(True, evidence, subject=primary.state)
    if primary.state == "DESTROY_SCHEDULED":
        return destruction_scheduled(key, primary, name, "primary")
    verb = {"DISABLED": "enable", "PENDING_GENERATION": "describe", "PENDING_IMPORT": "describe"}
    if primary.state in verb:
        fix = (on_version(name, verb[primary.state], primary.id),)
    else:
        fix = _another(key, name)
    if primary.state == "DESTROYED":
        evidence += ": data encrypted with it is lost"
    return Condition(False, evidence, fix, subject=primary.state, since=primary.destroy_event_time)


def _another(key: CryptoKey, name: KeyName) -> tuple[str, ...]:
    """Commands for a new primary version, in the way that this kind of key allows."""
    if key.import_only:
        imported = import_version(name)
        return imported, on_key(name, "set-primary-version", "--version=NUMBER")
    outside = {
        "EXTERNAL": " --external-key-uri=URI",
        "EXTERNAL_VPC": " --ekm-connection-key-path=PATH",
    }
    return (new_primary(name) + outside.get(key.protection_level, ""),)


def destruction_scheduled(
    key: CryptoKey, version: KeyVersion, name: KeyName, which: str
) -> Condition:
    """Never holds: the version is unusable now, and lost at its destroy time."""
    delay, when = key.destroy_scheduled_duration, version.destroy_time
    lost = f"is lost for good at {when:%Y-%m-%d %H:%M %Z}" if when else "will be lost for good"
    return Condition(
        False,
        f"{which} version {version.id} is {version.state}: data encrypted with it can't be read "
        f"now and {lost}",
        # both commands: a restored version is DISABLED
        (on_version(name, "restore", version.id), on_version(name, "enable", version.id)),
        subject=version.state,
        since=when - delay if when and delay else None,
        final_at=when,
    )


def justifications(key: CryptoKey, name: KeyName) -> Condition:
    """The key has no Key Access Justifications policy, or one with customer-initiated access."""
    allowed = key.justifications_policy
    if allowed is None:
        return Condition(True, "no Key Access Justifications policy: every reason is allowed")
    # `update` replaces the list: the reasons that others rely on must stay in it
    reasons = ",".join(one.lower().replace("_", "-") for one in (*allowed, CUSTOMER_INITIATED))
    fix = on_key(name, "update", f"--allowed-access-reasons={reasons}")
    if not allowed:
        evidence = "the Key Access Justifications policy allows no reason: every use is refused"
        return Condition(False, evidence, (fix,))
    evidence = f"Key Access Justifications allow {', '.join(allowed)}"
    if CUSTOMER_INITIATED in allowed:
        return Condition(True, evidence)
    return Condition(False, f"{evidence}; {CUSTOMER_INITIATED} is missing", (fix,), doubtful=True)


def has_organization_label(key: CryptoKey, organization: UUID) -> bool:
    """Whether the key has the label `anthropic-org-<uuid>=true` of this organization."""
    label, value = organization_label(organization)
    return key.labels.get(label) == value


def labels_of_others(
    key: CryptoKey, organization: UUID, own: Collection[str] = ()
) -> tuple[str, ...]:
    """Labels that say that another organization, or a workspace, uses the key; sorted.

    Nothing else may show it: another organization uses it by the same service account, and its
    workspaces are in no list of ours.

    Args:
        key: As read.
        organization: Whose own label does not count.
        own: Other labels that do not.
    """
    ignored = {organization_label(organization)[0], *own}
    prefixes = (ORGANIZATION_LABEL_PREFIX, WORKSPACE_LABEL_PREFIX)
    return tuple(sorted(one for one in set(key.labels) - ignored if one.startswith(prefixes)))


def labelled(key: CryptoKey, name: KeyName, organization: UUID) -> Condition:
    """The key has the organization label; without it validation fails."""
    label, value = organization_label(organization)
    if has_organization_label(key, organization):
        return Condition(True, f"the key has the label {label}={value}")
    found = ", ".join(f"{one}={text}" for one, text in sorted(key.labels.items())) or "none"
    return Condition(
        False,
        f"the label {label}={value} is missing; the key's labels: {found}",
        (on_key(name, "update", f"--update-labels={label}={value}"),),
    )


GrantState = Literal["on_key", "conditional", "inherited", "wrong_member", "missing"]


@dataclass(frozen=True, slots=True)
class GrantStatus:
    """How Anthropic's service account holds one of the two roles, or why it does not."""

    role: str
    state: GrantState
    grants: tuple[Grant, ...] = ()
    """The grants that explain the state."""


def grant_statuses(name: KeyName, grants: Iterable[Grant]) -> tuple[GrantStatus, ...]:
    """The status of each of the guide's two roles.

    Args:
        name: The key.
        grants: On the key, its ring and, as far as they could be read, all levels above.
    """
    everything = tuple(grants)
    return tuple(GrantStatus(role, *_state_of(str(name), role, everything)) for role in ROLES)


def _state_of(
    key: str, role: str, grants: tuple[Grant, ...]
) -> tuple[GrantState, tuple[Grant, ...]]:
    ours = [one for one in grants if one.member == MEMBER]
    near = [one for one in ours if "/keyRings/" in one.resource and one.role == role]
    held = tuple(one for one in near if one.resource == key and one.condition is None)
    if held:  # the usual case; the comparisons of names below are slow
        return "on_key", held
    # the first state that has grants explains most
    explanations: dict[GrantState, tuple[Grant, ...]] = {
        "conditional": tuple(one for one in near if one.condition is not None),
        "inherited": tuple(
            one
            for one in ours
            if one.resource != key and one.role in COVERING[role] and one.condition is None
        ),
        "wrong_member": tuple(
            one
            for one in grants
            if one.resource == key
            and one.role == role
            and kind_of(one.member) in {"look_alike", "deleted"}
        ),
    }
    found = next((state for state, explained in explanations.items() if explained), None)
    return (found, explanations[found]) if found else ("missing", ())


def granted(status: GrantStatus, name: KeyName) -> Condition:
    """The role is granted to Anthropic's service account on the key itself, without a condition.

    The remedy first adds the grant, then removes wrong ones, so that a key in use stays usable.
    """
    role, found = status.role, describe(status.grants)
    fix = (grant(name, role),)
    match status.state:
        case "on_key":
            return Condition(True, found, subject=role)
        case "conditional":
            return Condition(False, f"{found}: under a condition only", fix, subject=role)
        case "inherited":
            return Condition(
                False,
                f"{found}, not on the key: Google inherits it, the guide asks for the key itself",
                fix,
                doubtful=True,
                subject=role,
            )
        case "wrong_member":
            wrong = tuple(revoke(one.resource, one.member, one.role) for one in status.grants)
            return Condition(False, f"{found}, not to {MEMBER}", (*fix, *wrong), subject=role)
        case "missing":
            return Condition(False, f"{SERVICE_ACCOUNT} lacks {role} on the key", fix, subject=role)


def grants_in_another_form(role: str, grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Grants of other roles, without a condition, that may allow Anthropic's account the same.

    With custom roles, whose permissions are not read.
    """
    return tuple(
        one
        for one in grants
        if one.member == MEMBER
        and one.condition is None
        and (one.role in _MAY_COVER[role] or is_custom_role(one.role))
    )


def granted_in_another_form(role: str, found: Iterable[Grant], name: KeyName) -> Condition:
    """Never holds, and is doubtful: only a validation shows whether these grants are enough."""
    return Condition(
        False,
        f"{SERVICE_ACCOUNT} lacks {role} on the key, and has {describe(found)}: that may allow the "
        "same, but the guide asks for the role itself on the key",
        (grant(name, role),),
        doubtful=True,
        subject=role,
    )


def exceeding_grants(key: str, grants: Iterable[Grant]) -> Iterator[Grant]:
    """Grants of Anthropic's service account other than the two roles on the key itself."""
    for one in grants:
        if one.member == MEMBER and not (one.resource == key and one.role in ROLES):
            yield one
