"""Anthropic's check of a key: what it reads, what it refuses, and a true round trip.

Everything happens as Anthropic's service account, so a missing grant shows as it would there. The
texts of failures are invented: no list of them is published.

Source: https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from google.cloud import kms_v1

from cmek.names import BadNameError, KeyName, is_us_single_region, organization_label
from sandbox import kms_crypto, kms_keys
from sandbox.admin_models import ExternalKey, GcpConfig
from sandbox.errors import GoogleError
from sandbox.world import World

LONGEST_WAIT_SECONDS: Final = 30.0
TIMED_OUT: Final = "Timed out waiting for the key management service."
_TEXTS: Final = {
    "PERMISSION_DENIED": "Permission denied on the Cloud KMS key.",
    "NOT_FOUND": "The Cloud KMS key was not found.",
    "FAILED_PRECONDITION": "The Cloud KMS key version is not enabled.",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a key did not pass."""

    text: str
    timed_out: bool = False


def waiting_seconds(world: World) -> float:
    """How long a validation keeps its caller waiting; the server gives up after 30 s."""
    return min(world.switches.validate_seconds, LONGEST_WAIT_SECONDS)


def validate_key(world: World, key: ExternalKey) -> Failure | None:
    """The failure, or None for a key that works."""
    switches = world.switches
    if switches.validation_times_out or switches.validate_seconds > LONGEST_WAIT_SECONDS:
        return Failure(TIMED_OUT, timed_out=True)
    if not isinstance(key.provider_config, GcpConfig):
        return Failure(f"The sandbox has no key management service of {key.provider_config.type}.")
    try:
        return _check(world, key.provider_config.key_name)
    except GoogleError as error:
        return Failure(_TEXTS.get(error.status, f"Cloud KMS answered {error.status}."))


def _check(world: World, key_name: str) -> Failure | None:
    try:
        name = KeyName.parse(key_name)
    except BadNameError:
        return Failure("The key name is not the resource name of a Cloud KMS key.")
    if not is_us_single_region(name.location):
        return Failure("The key must be in a single US region.")
    anthropic = world.identities.anthropic
    key = kms_keys.get_crypto_key(world, anthropic, kms_v1.GetCryptoKeyRequest(name=key_name))
    return _metadata_failure(world, key) or _round_trip(world, key_name)


def _metadata_failure(world: World, key: kms_v1.CryptoKey) -> Failure | None:
    algorithms = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
    if key.purpose != kms_v1.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT or (
        key.version_template.algorithm != algorithms.GOOGLE_SYMMETRIC_ENCRYPTION
    ):
        return Failure("The key must be for symmetric encryption and decryption.")
    label, value = organization_label(world.admin.organization.id)
    if key.labels.get(label) != value:
        return Failure("The key does not carry this organization's label.")
    return None


def _round_trip(world: World, key_name: str) -> Failure | None:
    anthropic, plaintext = world.identities.anthropic, secrets.token_bytes(32)
    sealed = kms_crypto.encrypt(
        world, anthropic, kms_v1.EncryptRequest(name=key_name, plaintext=plaintext)
    )
    opened = kms_crypto.decrypt(
        world, anthropic, kms_v1.DecryptRequest(name=key_name, ciphertext=sealed.ciphertext)
    )
    if opened.plaintext != plaintext:
        return Failure("The key does not decrypt what it encrypted.")
    return None
