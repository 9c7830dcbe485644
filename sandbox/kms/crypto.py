"""Encrypt and decrypt with real AES-256-GCM and the CRC32C fields of Cloud KMS.

Source: https://docs.cloud.google.com/kms/docs/data-integrity-guidelines
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

import google_crc32c
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud import kms_v1

from sandbox.errors import GoogleError, error_info, invalid, version_not_enabled
from sandbox.iam import authorize
from sandbox.identities import Identity
from sandbox.kms.keys import Purpose
from sandbox.kms.operations import permitted, served
from sandbox.kms.state import canonical, key_of, kind_of
from sandbox.kms.versions import Level, State, find_key, find_version
from sandbox.world import World

_NONCE: Final = 12
_UNDECIPHERABLE: Final = "Decryption failed: verify that 'name' refers to the correct CryptoKey."
_AAD: Final = "additional_authenticated_data"
_LARGEST: Final = {Level.SOFTWARE: 64 * 1024, Level.HSM: 8 * 1024}
_REASON: Final = kms_v1.AccessReason(kms_v1.AccessReason.CUSTOMER_INITIATED_ACCESS)


@served("POST /v1/{name=CryptoKey|CryptoKeyVersion}:encrypt", reads=True)
def encrypt(
    world: World, caller: Identity, request: kms_v1.EncryptRequest
) -> kms_v1.EncryptResponse:
    """Encrypt with the primary version, or with the version in the name."""
    permission = "cloudkms.cryptoKeyVersions.useToEncrypt"
    kind = "CryptoKeyVersion" if kind_of(request.name) == "CryptoKeyVersion" else "CryptoKey"
    name = canonical(world, request.name, kind, permission)
    # checked here, not by `permitted`, which takes one kind of name: encrypt takes two
    authorize(world, caller, permission, name)
    key = _usable_key(world, key_of(name))
    if kind == "CryptoKey" and "primary" not in key:
        raise GoogleError("FAILED_PRECONDITION", f"CryptoKey {name} has no primary version.")
    version = find_version(world, key.primary.name if kind == "CryptoKey" else name)
    _check_enabled(version)
    aad = request.additional_authenticated_data
    largest = _LARGEST.get(Level(version.protection_level), 64 * 1024)
    if len(request.plaintext) > largest or len(aad) > largest:
        raise invalid(f"Plaintext and additional authenticated data: at most {largest} bytes each.")
    verified = _check_crc("plaintext", request.plaintext, request.plaintext_crc32c)
    verified_aad = _check_crc(_AAD, aad, request.additional_authenticated_data_crc32c)
    nonce = secrets.token_bytes(_NONCE)
    secret = world.kms.material[version.name]
    sealed = _prefix(version.name) + nonce + AESGCM(secret).encrypt(nonce, request.plaintext, aad)
    return kms_v1.EncryptResponse(
        name=version.name,
        ciphertext=sealed,
        ciphertext_crc32c=google_crc32c.value(sealed),
        verified_plaintext_crc32c=verified,
        verified_additional_authenticated_data_crc32c=verified_aad,
        protection_level=version.protection_level,
    )


@permitted(
    "cloudkms.cryptoKeyVersions.useToDecrypt", "POST /v1/{name=CryptoKey}:decrypt", reads=True
)
def decrypt(world: World, name: str, request: kms_v1.DecryptRequest) -> kms_v1.DecryptResponse:
    """Decrypt with the version of the key that encrypted it."""
    key = _usable_key(world, name)
    _check_crc("ciphertext", request.ciphertext, request.ciphertext_crc32c)
    aad = request.additional_authenticated_data
    _check_crc(_AAD, aad, request.additional_authenticated_data_crc32c)
    version = _sealed_by(world, name, request.ciphertext)
    _check_enabled(version)
    body = request.ciphertext[len(_prefix(version.name)) :]
    try:
        opened = AESGCM(world.kms.material[version.name]).decrypt(body[:_NONCE], body[_NONCE:], aad)
    except (InvalidTag, ValueError):
        raise invalid(_UNDECIPHERABLE) from None
    return kms_v1.DecryptResponse(
        plaintext=opened,
        plaintext_crc32c=google_crc32c.value(opened),
        used_primary="primary" in key and key.primary.name == version.name,
        protection_level=version.protection_level,
    )


def _usable_key(world: World, name: str) -> kms_v1.CryptoKey:
    key = find_key(world, name)
    if key.purpose != Purpose.ENCRYPT_DECRYPT:
        raise invalid(f"CryptoKey {name} has purpose {Purpose(key.purpose).name}.")
    if "key_access_justifications_policy" not in key:
        return key
    if _REASON not in key.key_access_justifications_policy.allowed_access_reasons:
        raise GoogleError(
            "PERMISSION_DENIED",
            f"The Key Access Justifications policy of {name} does not allow {_REASON.name}.",
            [error_info("KEY_ACCESS_JUSTIFICATION_DENIED", "cloudkms.googleapis.com")],
        )
    return key


def _check_enabled(version: kms_v1.CryptoKeyVersion) -> None:
    if version.state != State.ENABLED:
        raise version_not_enabled(version.name, State(version.state).name)


def _check_crc(field: str, data: bytes, given: int | None) -> bool:
    if given is None:
        return False
    if given != google_crc32c.value(data):
        raise invalid(f"The checksum in field {field}_crc32c did not match the data in {field}.")
    return True


def _prefix(version: str) -> bytes:
    """The start of each ciphertext of a version: a hash of the key's name, the version's number."""
    number = int(version.rsplit("/", 1)[1])
    return hashlib.sha256(key_of(version).encode()).digest()[:8] + number.to_bytes(4, "big")


def _sealed_by(world: World, key: str, ciphertext: bytes) -> kms_v1.CryptoKeyVersion:
    # a request to decrypt names only the key: the ciphertext itself names the version
    for version in world.kms.versions[key].values():
        if ciphertext.startswith(_prefix(version.name)):
            return version
    raise invalid(_UNDECIPHERABLE)
