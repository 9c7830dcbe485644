"""What Cloud KMS accepts in a crypto key, and the defaults that it fills in. Guide step 2.

Sources: the comments on `CryptoKey` in google-cloud-kms;
https://docs.cloud.google.com/kms/docs/destroy-restore (24 hours to 120 days, default 30 days)
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from google.cloud import kms_v1

from sandbox.errors import invalid
from sandbox.kms.state import location_of, project_of
from sandbox.world import World

Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
Algorithm = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Level = kms_v1.ProtectionLevel

DEFAULT_DESTROY_DELAY: Final = timedelta(days=30)
_DESTROY_DELAY: Final = (timedelta(hours=24), timedelta(days=120))
_ROTATION: Final = (timedelta(hours=24), timedelta(hours=876_000))
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")
_MOST_LABELS: Final = 64


def new_key(world: World, name: str, asked: kms_v1.CryptoKey) -> kms_v1.CryptoKey:
    """The key to store for a create request: output-only fields dropped, defaults filled in.

    Raises:
        GoogleError: INVALID_ARGUMENT for a field that Cloud KMS refuses; FAILED_PRECONDITION by
            an organization policy.
    """
    if asked.purpose == Purpose.CRYPTO_KEY_PURPOSE_UNSPECIFIED:
        raise invalid("The purpose of a CryptoKey is required.")
    delay = asked.destroy_scheduled_duration or DEFAULT_DESTROY_DELAY
    key = kms_v1.CryptoKey(
        name=name,
        create_time=world.clock.now(),
        purpose=asked.purpose,
        version_template=_template(asked),
        labels=dict(asked.labels),
        import_only=asked.import_only,
        destroy_scheduled_duration=delay,
        crypto_key_backend=asked.crypto_key_backend,
    )
    if "key_access_justifications_policy" in asked:
        key.key_access_justifications_policy = asked.key_access_justifications_policy
    if not _DESTROY_DELAY[0] <= delay <= _DESTROY_DELAY[1]:
        raise invalid(f"destroy_scheduled_duration {delay} is not between 24 hours and 120 days.")
    check_labels(key)
    set_rotation(key, asked.rotation_period, asked.next_rotation_time, world.clock.now())
    check_place(world, key)
    number = project_of(world, name).number
    world.kms.constraints.check_destroy_duration(delay, number)
    return key


def check_place(world: World, key: kms_v1.CryptoKey) -> None:
    """Whether a version of this key may be made here and now.

    Raises:
        GoogleError: INVALID_ARGUMENT where HSM is not offered; FAILED_PRECONDITION by an
            organization policy.
    """
    location, number = location_of(key.name), project_of(world, key.name).number
    level = Level(key.version_template.protection_level)
    if level == Level.HSM and location in world.kms.locations_without_hsm:
        raise invalid(f"Protection level HSM is not available in location '{location}'.")
    world.kms.constraints.check_location(location, "crypto key version", number)
    world.kms.constraints.check_protection_level(level.name, number)


def _template(asked: kms_v1.CryptoKey) -> kms_v1.CryptoKeyVersionTemplate:
    template = kms_v1.CryptoKeyVersionTemplate(asked.version_template)
    if template.protection_level == Level.PROTECTION_LEVEL_UNSPECIFIED:
        template.protection_level = Level(Level.SOFTWARE)
    symmetric = asked.purpose == Purpose.ENCRYPT_DECRYPT
    unset = template.algorithm == Algorithm.CRYPTO_KEY_VERSION_ALGORITHM_UNSPECIFIED
    if unset and not symmetric:
        raise invalid("version_template.algorithm is required for this purpose.")
    if unset:
        template.algorithm = Algorithm(Algorithm.GOOGLE_SYMMETRIC_ENCRYPTION)
    if symmetric != (template.algorithm == Algorithm.GOOGLE_SYMMETRIC_ENCRYPTION):
        raise invalid(
            f"Algorithm {Algorithm(template.algorithm).name} does not fit the purpose "
            f"{Purpose(asked.purpose).name}."
        )
    return template


def check_labels(key: kms_v1.CryptoKey) -> None:
    """At most 64 labels, lower-case keys that start with a letter, lower-case values.

    Raises:
        GoogleError: INVALID_ARGUMENT naming the label.
    """
    if len(key.labels) > _MOST_LABELS:
        raise invalid(f"{len(key.labels)} labels are more than {_MOST_LABELS}.")
    for label, value in key.labels.items():
        if not _LABEL_KEY.fullmatch(label) or not _LABEL_VALUE.fullmatch(value):
            raise invalid(f"Label '{label}'='{value}' is malformed.")


def set_rotation(
    key: kms_v1.CryptoKey, period: timedelta, first: datetime | None, now: datetime
) -> None:
    """Give the key a rotation schedule, or none.

    Raises:
        GoogleError: INVALID_ARGUMENT for a period outside 24 hours to 876 000 hours, a period
            without a next time or the reverse, a time in the past, a key without a primary.
    """
    if not period and first is None:
        key.rotation_period = key.next_rotation_time = None
        return
    if key.purpose != Purpose.ENCRYPT_DECRYPT:
        raise invalid("Only a key of purpose ENCRYPT_DECRYPT can rotate by itself.")
    if not period or first is None:
        raise invalid("rotation_period and next_rotation_time must be set together.")
    if not _ROTATION[0] <= period <= _ROTATION[1]:
        raise invalid(f"rotation_period {period} is not between 24 hours and 876000 hours.")
    if first <= now:
        raise invalid(f"next_rotation_time {first.isoformat()} is not in the future.")
    key.rotation_period, key.next_rotation_time = period, first
