"""Is an existing crypto key the one that was asked for, and whose is it? Pure (guide step 2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from cmek.kms_models import SYMMETRIC, CryptoKey, KeySpec
from cmek.names import is_us_single_region, organization_label
from cmek.request import OnboardingRequest

DECRYPTING_ROLES = frozenset(
    {
        "roles/owner",
        "roles/cloudkms.cryptoKeyEncrypterDecrypter",
        "roles/cloudkms.cryptoKeyDecrypter",
        "roles/cloudkms.cryptoKeyEncrypter",
        "roles/cloudkms.cryptoOperator",
    }
)
"""Roles by which somebody uses a key's material."""


class KeyRefusedError(Exception):
    """An existing key that can't serve; nothing about it is changed."""


class ForeignKeyError(KeyRefusedError):
    """A key that exists without our label, and nobody allowed us to adopt it."""


def key_spec(request: OnboardingRequest, organization: UUID) -> KeySpec:
    """How a new key is made.

    The label goes into the create call, so that a key whose creation answer was lost is
    recognised as ours.
    """
    days = request.rotation_period_days
    label, value = organization_label(organization)
    return KeySpec(
        protection_level=request.protection_level,
        rotation_period=timedelta(days=days) if days else None,
        destroy_scheduled_duration=timedelta(days=request.destroy_delay_days),
        labels={label: value},
    )


def is_ours(key: CryptoKey, organization: UUID) -> bool:
    """Whether the key carries this organization's label."""
    label, value = organization_label(organization)
    return key.labels.get(label) == value


def check_key(key: CryptoKey, request: OnboardingRequest) -> None:
    """Compare what can't be changed with what was asked for.

    Raises:
        KeyRefusedError: names the field, the value found and the way out.
    """
    wanted = {
        "purpose": (key.purpose, "ENCRYPT_DECRYPT"),
        "algorithm": (key.algorithm, SYMMETRIC),
        "protection level": (key.protection_level, request.protection_level),
        "import only": (key.import_only, False),
        "external backend": (key.crypto_key_backend or "none", "none"),
    }
    for field, (found, needed) in wanted.items():
        if found != needed:
            raise KeyRefusedError(
                f"{key.name}: {field} is {found}, needed {needed}, and it can't be changed: "
                "ask for another key name or, where that suits you, for what the key has"
            )
    if not is_us_single_region(request.key_name.location):
        raise KeyRefusedError(f"{key.name}: the location must be one US region")
    if key.primary is None:
        raise KeyRefusedError(
            f"{key.name} has no primary version: create one and make it primary "
            f"(gcloud kms keys versions create --primary --key={request.key_name.crypto_key} "
            f"--keyring={request.key_name.key_ring} --location={request.location} "
            f"--project={request.project_id})"
        )


def check_adoption(key: CryptoKey, request: OnboardingRequest, users: Sequence[str]) -> None:
    """Refuse to touch a foreign key unless a person said so.

    Args:
        key: Exists without our label.
        request: The pinned request.
        users: Members that can encrypt or decrypt with it today.

    Raises:
        ForeignKeyError: `adopt_existing_key` is off.
    """
    if not request.adopt_existing_key:
        shown = ", ".join(users) or "nobody by a binding on the key itself"
        raise ForeignKeyError(
            f"{key.name} exists and does not carry this organization's label, so it may protect "
            f"other data. Its users: {shown}. Set adopt_existing_key to add the label and the two "
            "grants to it, or ask for another key name"
        )
