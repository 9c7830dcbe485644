"""Rules about a key's versions: the primary, older ones, and rotation.

Data is never re-encrypted, so every version that was once the primary is still needed.

Source: https://docs.cloud.google.com/kms/docs/key-states,
https://docs.cloud.google.com/kms/docs/destroy-restore,
https://platform.claude.com/docs/en/manage-claude/cmek-key-lifecycle
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from cmek.gcp.gcloud import new_primary, on_key, on_version
from cmek.gcp.resources import CryptoKey, KeyVersion
from cmek.keys import conditions
from cmek.keys.rules import Cause, CauseRule, DiagnosisFacts, Finding, KnownCause
from cmek.keys.rules_key import KEY_READ, without_key
from cmek.keys.snapshot import KeySnapshot
from cmek.names import KeyName


def primary_in(why: str, *states: str) -> Callable[[KeySnapshot], Iterator[Finding]]:
    """A rule that finds a primary version in one of these states.

    Args:
        why: What it means for the data, for the documentation.
        states: Of the version, or `MISSING`; without any: all states that have no rule of their
            own.
    """

    def find(snapshot: KeySnapshot) -> Iterator[Finding]:
        for key, name in snapshot.key_and_name():
            condition = conditions.primary_version(key, name, snapshot.all_versions)
            wanted = condition.subject in states or (
                not states and condition.subject not in _PRIMARY_STATES
            )
            if wanted:
                yield from Finding.of(condition, subject=key.primary.id if key.primary else "")

    find.__doc__ = why  # the documentation shows the docstring of each rule
    return find


primary_missing: Final = primary_in(
    "Nothing can be encrypted without a primary version.", conditions.MISSING
)
primary_disabled: Final = primary_in(
    "Nothing can be encrypted, and data under this version can't be read, until it is enabled.",
    "DISABLED",
)
primary_destroy_scheduled: Final = primary_in(
    "The primary is unusable already, and lost for good at its destroy time.", "DESTROY_SCHEDULED"
)
primary_pending: Final = primary_in("It is still being generated.", "PENDING_GENERATION")
primary_unusable: Final = primary_in(
    "Destroyed, or never generated: only another version can become the primary."
)
_PRIMARY_STATES: Final = frozenset(
    {
        conditions.MISSING,
        conditions.NOT_APPLICABLE,
        "ENABLED",
        "DISABLED",
        "DESTROY_SCHEDULED",
        "PENDING_GENERATION",
    }
)
"""States that have a rule of their own, or need none."""


def old_version_disabled(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Data that it encrypted can't be read until it is enabled again."""
    for version, name in _old_in(snapshot, "DISABLED"):
        yield Finding(
            f"the older version {version.id} is disabled: data encrypted with it can't be read",
            (on_version(name, "enable", version.id),),
            version.id,
        )


def old_version_destroy_scheduled(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Data that it encrypted can't be read, and is lost for good at its destroy time."""
    for version, name in _old_in(snapshot, "DESTROY_SCHEDULED"):
        key = snapshot.crypto_key
        if key is not None:
            condition = conditions.destruction_scheduled(key, version, name, "older")
            yield from Finding.of(condition, subject=version.id)


def old_version_destroyed(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Data that it encrypted is lost, unless it was destroyed before the key was registered."""
    for version, name in _old_in(snapshot, "DESTROYED"):
        gone, registered = version.destroy_event_time, snapshot.registered_at
        if gone and registered and gone < registered:
            continue  # it never encrypted anything of Anthropic's
        query = (
            'protoPayload.methodName="DestroyCryptoKeyVersion" AND '
            f'protoPayload.resourceName="{version.name}"'
        )
        yield Finding(
            f"the older version {version.id} was destroyed: data encrypted with it is lost, and "
            "nothing brings it back. Find out who did it, and protect the other versions",
            # gcloud looks back one day by default, and a destruction is logged when it is scheduled
            (f"gcloud logging read '{query}' --freshness=400d --project={name.project}",),
            version.id,
            since=gone,
        )


def protection_mixed(snapshot: KeySnapshot) -> Iterator[Finding]:
    """A version has another protection level than the key."""
    for key, _ in snapshot.key_and_name():
        for version in snapshot.all_versions:
            if version.protection_level != key.protection_level:
                yield Finding(
                    f"version {version.id} is {version.protection_level}, the key says "
                    f"{key.protection_level}",
                    subject=version.id,
                )


def _old_in(snapshot: KeySnapshot, state: str) -> Iterator[tuple[KeyVersion, KeyName]]:
    """Old versions in a state, without those that were already unusable at the onboarding."""
    baseline = snapshot.baseline
    # a first check proves no such thing: a version may have become unusable before it
    before = baseline.unusable_versions if baseline and baseline.source == "onboarding" else ()
    for version in snapshot.old_versions:
        if version.state == state and version.id not in before and snapshot.name:
            yield version, snapshot.name


LONGEST_ROTATION: Final = timedelta(days=90)
GRACE: Final = timedelta(days=1)


def rotation_off(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Without rotation one version encrypts all data."""
    for key, name in _rotating(snapshot):
        if key.rotation_period is None:
            yield Finding("automatic rotation is off", (_rotate(snapshot, name),))


def rotation_slow(snapshot: KeySnapshot) -> Iterator[Finding]:
    """CIS asks for 90 days or less."""
    for key, name in _rotating(snapshot):
        if key.rotation_period and key.rotation_period > LONGEST_ROTATION:
            yield Finding(
                f"it rotates every {key.rotation_period.days} days, CIS asks for 90 or less",
                (_rotate(snapshot, name),),
            )


def rotation_overdue(snapshot: KeySnapshot) -> Iterator[Finding]:
    """A rotation that did not happen: often an organization policy made after the key."""
    for key, name in snapshot.key_and_name():
        due = key.next_rotation_time
        if due is None or due + GRACE >= snapshot.now:
            continue
        describe = "gcloud resource-manager org-policies describe"
        where = f"--effective --project={name.project}"
        yield Finding(
            f"the rotation of {due:%Y-%m-%d %H:%M %Z} did not happen. Organization policies on "
            "locations or protection levels stop the rotation of keys made before them",
            (
                f"{describe} constraints/gcp.resourceLocations {where}",
                f"{describe} constraints/cloudkms.allowedProtectionLevels {where}",
                new_primary(name),
            ),
            since=due,
        )


def _rotating(snapshot: KeySnapshot) -> Iterator[tuple[CryptoKey, KeyName]]:
    """The key, if Cloud KMS can rotate it: a symmetric key whose material it generates."""
    for key, name in snapshot.key_and_name():
        if conditions.fitting_kind(key).holds:
            yield key, name


def _rotate(snapshot: KeySnapshot, name: KeyName) -> str:
    first = snapshot.now + timedelta(days=1)
    return on_key(
        name, "update", f"--rotation-period=90d --next-rotation-time={first:%Y-%m-%dT%H:%M:%SZ}"
    )


def primary_rule(known: KnownCause, states: tuple[str, ...]) -> CauseRule:
    """A rule whose cause is proved by a primary version in one of `states`."""

    def rule(facts: DiagnosisFacts) -> Cause:
        name = facts.request.key_name
        if facts.key is None:
            return without_key(facts, known, new_primary(name))
        condition = conditions.primary_version(facts.key, name)
        if condition.subject not in states:
            return known.excluded(condition.evidence)
        return known.judge(condition)

    return rule


def _primary_cause(known_id: str, title: str, *states: str) -> tuple[KnownCause, CauseRule]:
    known = KnownCause(known_id, title, KEY_READ)
    return known, primary_rule(known, states)


PRIMARY_CAUSES: Final = (
    _primary_cause("primary_disabled", "The primary version is disabled", "DISABLED"),
    _primary_cause(
        "primary_destroy_scheduled",
        "The primary version is scheduled for destruction",
        "DESTROY_SCHEDULED",
    ),
    _primary_cause("primary_destroyed", "The primary version is destroyed", "DESTROYED"),
    _primary_cause(
        "primary_pending",
        "The primary version is still being made",
        "PENDING_GENERATION",
        "PENDING_IMPORT",
    ),
    _primary_cause(
        "primary_failed",
        "The primary version could not be made",
        "GENERATION_FAILED",
        "IMPORT_FAILED",
        "PENDING_EXTERNAL_DESTRUCTION",
        "EXTERNAL_DESTRUCTION_FAILED",
    ),
    _primary_cause("primary_missing", "The key has no primary version", conditions.MISSING),
)
