"""Rules about rotation: Cloud KMS makes a new primary on a schedule, if nothing stops it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from cmek.checks.commands import new_primary, on_key
from cmek.health.reading import KeyReading
from cmek.health.rule import Finding
from cmek.names import KeyName

LONGEST_ROTATION: Final = timedelta(days=90)
GRACE: Final = timedelta(days=1)


def rotation_off(reading: KeyReading) -> Iterator[Finding]:
    """Without a rotation period one version seals everything for ever."""
    for key, name in reading.found():
        if key.rotation_period is None:
            yield Finding("automatic rotation is off", (_rotate(reading, name),))


def rotation_slow(reading: KeyReading) -> Iterator[Finding]:
    """CIS asks for 90 days or less."""
    for key, name in reading.found():
        if key.rotation_period and key.rotation_period > LONGEST_ROTATION:
            yield Finding(
                f"it rotates every {key.rotation_period.days} days, CIS asks for 90 or less",
                (_rotate(reading, name),),
            )


def rotation_overdue(reading: KeyReading) -> Iterator[Finding]:
    """A rotation that did not happen: often an organization policy made after the key."""
    for key, name in reading.found():
        due = key.next_rotation_time
        if due is None or due + GRACE >= reading.now:
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


def _rotate(reading: KeyReading, name: KeyName) -> str:
    first = reading.now + timedelta(days=1)
    return on_key(
        name, "update", f"--rotation-period=90d --next-rotation-time={first:%Y-%m-%dT%H:%M:%SZ}"
    )
