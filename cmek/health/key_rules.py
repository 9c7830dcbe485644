"""Rules about the key itself: that it is there, what it is, and what was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from cmek.checks.commands import on_key
from cmek.health.model import RECORDED_FIELDS
from cmek.health.reading import KeyReading
from cmek.health.rule import Finding
from cmek.kms_models import CUSTOMER_INITIATED, SYMMETRIC
from cmek.names import is_us_single_region, organization_label

SHORTEST_DESTROY_DELAY: Final = timedelta(days=30)


def not_found(reading: KeyReading) -> Iterator[Finding]:
    """Anthropic has the key on record, Cloud KMS has not: everything under it is unreadable."""
    if reading.name and reading.found_key is None:
        yield Finding(
            f"Cloud KMS has no key {reading.registered_name}: it was deleted, or its project was. "
            "A deleted key can't be brought back; a deleted project can for 30 days",
            (f"gcloud projects undelete {reading.name.project}",),
        )


def name_malformed(reading: KeyReading) -> Iterator[Finding]:
    """What is registered is not a crypto key's resource name, and can never be changed."""
    if reading.name is None:
        yield Finding(
            f"{reading.registered_name} is not a crypto key's resource name; register the key "
            "again by its full name, and attach it to a new workspace"
        )


def wrong_location(reading: KeyReading) -> Iterator[Finding]:
    """Anthropic uses keys in one US region only; a key can't be moved."""
    if reading.name and not is_us_single_region(reading.name.location):
        yield Finding(
            f"the key is in {reading.name.location}, not in one US region: make a key in one, "
            "and a new workspace for it"
        )


def wrong_kind(reading: KeyReading) -> Iterator[Finding]:
    """Anthropic needs a symmetric key for encryption and decryption."""
    for key, _ in reading.found():
        if key.purpose != "ENCRYPT_DECRYPT" or key.algorithm != SYMMETRIC:
            yield Finding(
                f"the key is for {key.purpose} with {key.algorithm}, which can't be changed: make "
                "a symmetric key, and a new workspace for it"
            )


def label_missing(reading: KeyReading) -> Iterator[Finding]:
    """Without the organization label validation fails."""
    label, value = organization_label(reading.organization_id)
    for key, name in reading.found():
        if key.labels.get(label) != value:
            yield Finding(
                f"the label {label}={value} is missing",
                (on_key(name, "update", f"--update-labels={label}={value}"),),
            )


def justifications_deny(reading: KeyReading) -> Iterator[Finding]:
    """An empty Key Access Justifications policy refuses every use."""
    for key, name in reading.found():
        if key.justifications_policy == ():
            yield Finding(
                "the Key Access Justifications policy allows no reason, so every use is refused",
                (on_key(name, "update", "--allowed-access-reasons=customer-initiated-access"),),
            )


def justifications_narrow(reading: KeyReading) -> Iterator[Finding]:
    """A policy without customer-initiated access may refuse Anthropic's use."""
    for key, name in reading.found():
        allowed = key.justifications_policy
        if allowed and CUSTOMER_INITIATED not in allowed:
            reasons = [one.lower().replace("_", "-") for one in (*allowed, CUSTOMER_INITIATED)]
            yield Finding(
                f"Key Access Justifications allow only {', '.join(allowed)}",
                (on_key(name, "update", f"--allowed-access-reasons={','.join(reasons)}"),),
            )


def destroy_delay_short(reading: KeyReading) -> Iterator[Finding]:
    """Little time to notice a scheduled destruction; the delay of a key can't be changed."""
    for key, name in reading.found():
        delay = key.destroy_scheduled_duration
        if delay is None or delay >= SHORTEST_DESTROY_DELAY:
            continue
        protect = (
            "gcloud resource-manager org-policies enable-enforce "
            f"constraints/cloudkms.disableBeforeDestroy --project={name.project}"
        )
        yield Finding(
            f"a scheduled destruction becomes final after {delay.total_seconds() / 86400:g} days, "
            "under 30. It can't be changed on this key; an organization policy can at least demand "
            "that versions are disabled first",
            (protect,),
        )


def software_protection(reading: KeyReading) -> Iterator[Finding]:
    """Allowed by the guide, HSM is recommended: a remark."""
    for key, _ in reading.found():
        if key.protection_level == "SOFTWARE":
            yield Finding("the key is protected by software; the guide recommends HSM")


def drift(reading: KeyReading) -> Iterator[Finding]:
    """Something is no longer as it was recorded at onboarding (or at the first look)."""
    baseline = reading.baseline
    for key, _ in reading.found():
        for field in RECORDED_FIELDS if baseline else ():
            was, found = getattr(baseline, field), getattr(key, field)
            if baseline is None or was == found:
                continue
            yield Finding(
                f"{field.replace('_', ' ')} was {_shown(was)} at {baseline.source} "
                f"({baseline.recorded_at:%Y-%m-%d}), is {_shown(found)}. If that is meant, "
                "revalidate once with record_anew",
                subject=field,
            )


def _shown(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds() / 86400:g} days"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "nothing"
    return "none" if value is None else str(value)
