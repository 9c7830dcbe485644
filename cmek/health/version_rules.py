"""Rules about versions. Data is never re-encrypted, so every version that served is still needed.

Source: https://docs.cloud.google.com/kms/docs/key-states and …/destroy-restore;
https://platform.claude.com/docs/en/manage-claude/cmek-key-lifecycle
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cmek.checks.commands import new_primary, on_key, on_version
from cmek.health.reading import KeyReading
from cmek.health.rule import Finding
from cmek.kms_models import KeyVersion
from cmek.names import KeyName

HAVE_RULES: Final = {"ENABLED", "DISABLED", "DESTROY_SCHEDULED", "PENDING_GENERATION"}


def primary_missing(reading: KeyReading) -> Iterator[Finding]:
    """Nothing can be encrypted without a primary version."""
    for key, name in reading.found():
        if key.primary is not None:
            continue
        enabled = [version.id for version in reading.all_versions if version.state == "ENABLED"]
        choose = f"--version={max(enabled, key=int)}" if enabled else ""
        mend = on_key(name, "set-primary-version", choose) if enabled else new_primary(name)
        yield Finding("the key has no primary version", (mend,))


def primary_disabled(reading: KeyReading) -> Iterator[Finding]:
    """Nothing can be encrypted, and what this version sealed can't be read, until it is enabled."""
    for version, name in _primary_in(reading, "DISABLED"):
        yield Finding(
            f"the primary version {version.id} is disabled",
            (on_version(name, "enable", version.id),),
            version.id,
        )


def primary_destroy_scheduled(reading: KeyReading) -> Iterator[Finding]:
    """The primary is unusable already, and lost for good at its destroy time."""
    for version, name in _primary_in(reading, "DESTROY_SCHEDULED"):
        yield _doomed(reading, version, name, "primary")


def primary_unusable(reading: KeyReading) -> Iterator[Finding]:
    """Destroyed, or never generated: only another version can become the primary."""
    for key, name in reading.found():
        primary = key.primary
        if primary and primary.state not in HAVE_RULES:
            yield Finding(
                f"the primary version {primary.id} is {primary.state}",
                (new_primary(name),),
                primary.id,
                since=primary.destroy_event_time,
            )


def primary_pending(reading: KeyReading) -> Iterator[Finding]:
    """It can't be used yet, and soon may be."""
    for version, _ in _primary_in(reading, "PENDING_GENERATION"):
        yield Finding(f"the primary version {version.id} is still being made", subject=version.id)


def old_version_disabled(reading: KeyReading) -> Iterator[Finding]:
    """What it sealed can't be read until it is enabled again."""
    for version, name in _old_in(reading, "DISABLED"):
        yield Finding(
            f"the older version {version.id} is disabled: data sealed under it can't be read",
            (on_version(name, "enable", version.id),),
            version.id,
        )


def old_version_destroy_scheduled(reading: KeyReading) -> Iterator[Finding]:
    """What it sealed can't be read, and is lost for good at its destroy time."""
    for version, name in _old_in(reading, "DESTROY_SCHEDULED"):
        yield _doomed(reading, version, name, "older")


def old_version_destroyed(reading: KeyReading) -> Iterator[Finding]:
    """What it sealed is lost; a version that was gone before registration sealed nothing."""
    for version, name in _old_in(reading, "DESTROYED"):
        gone, registered = version.destroy_event_time, reading.registered_at
        if gone and registered and gone < registered:
            continue
        query = (
            'protoPayload.methodName="DestroyCryptoKeyVersion" AND '
            f'protoPayload.resourceName="{version.name}"'
        )
        yield Finding(
            f"the older version {version.id} was destroyed: data sealed under it is lost, and "
            "nothing brings it back. Find out who did it, and protect the other versions",
            (f"gcloud logging read '{query}' --project={name.project}",),
            version.id,
            since=gone,
        )


def protection_mixed(reading: KeyReading) -> Iterator[Finding]:
    """A version that is protected in another way than the key says."""
    for key, _ in reading.found():
        for version in reading.all_versions:
            if version.protection_level != key.protection_level:
                yield Finding(
                    f"version {version.id} is {version.protection_level}, the key says "
                    f"{key.protection_level}",
                    subject=version.id,
                )


def _primary_in(reading: KeyReading, state: str) -> Iterator[tuple[KeyVersion, KeyName]]:
    for key, name in reading.found():
        if key.primary and key.primary.state == state:
            yield key.primary, name


def _old_in(reading: KeyReading, state: str) -> Iterator[tuple[KeyVersion, KeyName]]:
    """Old versions in a state, without those that were unusable before we sealed anything."""
    baseline = reading.baseline
    before = baseline.unusable_versions if baseline and baseline.source == "onboarding" else ()
    for version in reading.old_versions:
        if version.state == state and version.id not in before and reading.name:
            yield version, reading.name


def _doomed(reading: KeyReading, version: KeyVersion, name: KeyName, which: str) -> Finding:
    key, when = reading.found_key, version.destroy_time
    delay = key.destroy_scheduled_duration if key else None
    lost = f"is lost for good at {when:%Y-%m-%d %H:%M %Z}" if when else "will be lost for good"
    return Finding(
        f"the {which} version {version.id} is scheduled for destruction: data sealed under it "
        f"can't be read now, and {lost}",
        (on_version(name, "restore", version.id), on_version(name, "enable", version.id)),
        version.id,
        since=when - delay if when and delay else None,
        final_at=when,
    )
