"""Encryption is real, has checksums, and is refused where the real service refuses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest
from google.api_core import exceptions
from google.cloud import kms_v1

from tests.support.kms import NO_RETRY, Client, Kms, Level, State

TEXT, EXTRA = b"a data key", b"its context"


def test_checksums_guard_both_directions(kms: Kms, client: Client) -> None:
    key = kms.key(version_template={"protection_level": Level.HSM})
    sealed = client.encrypt(
        request={
            "name": key.name,
            "plaintext": TEXT,
            "plaintext_crc32c": google_crc32c.value(TEXT),
            "additional_authenticated_data": EXTRA,
            "additional_authenticated_data_crc32c": google_crc32c.value(EXTRA),
        }
    )
    assert sealed.verified_plaintext_crc32c
    assert sealed.verified_additional_authenticated_data_crc32c
    assert sealed.ciphertext_crc32c == google_crc32c.value(sealed.ciphertext)
    assert sealed.protection_level == Level.HSM
    assert sealed.name == key.primary.name
    assert TEXT not in sealed.ciphertext
    opened = client.decrypt(
        request={
            "name": key.name,
            "ciphertext": sealed.ciphertext,
            "ciphertext_crc32c": sealed.ciphertext_crc32c,
            "additional_authenticated_data": EXTRA,
        }
    )
    assert (opened.plaintext, opened.used_primary) == (TEXT, True)
    assert opened.plaintext_crc32c == google_crc32c.value(TEXT)


def test_unasked_checks_are_not_claimed(kms: Kms, client: Client) -> None:
    sealed = client.encrypt(name=kms.key().name, plaintext=TEXT)
    assert not sealed.verified_plaintext_crc32c
    assert not sealed.verified_additional_authenticated_data_crc32c


@pytest.mark.parametrize(
    "field",
    ["plaintext_crc32c", "additional_authenticated_data_crc32c", "ciphertext_crc32c"],
)
def test_a_wrong_checksum_is_refused(kms: Kms, client: Client, field: str) -> None:
    """INVALID_ARGUMENT names the field; its data was changed on the way."""
    key = kms.key()
    request: dict[str, Any] = {"name": key.name, "plaintext": TEXT}
    call: Callable[..., Any] = client.encrypt
    if field == "ciphertext_crc32c":
        sealed = client.encrypt(name=key.name, plaintext=TEXT).ciphertext
        request, call = {"name": key.name, "ciphertext": sealed}, client.decrypt
    with pytest.raises(exceptions.BadRequest, match=field):
        call(request=request | {field: 1}, **NO_RETRY)


def test_nothing_but_the_right_key_and_context_opens(kms: Kms, client: Client) -> None:
    key = kms.key()
    other = kms.key("other", ring=key.name.partition("/cryptoKeys")[0])
    sealed = client.encrypt(
        request={"name": key.name, "plaintext": TEXT, "additional_authenticated_data": EXTRA}
    ).ciphertext
    bent = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for name, data, extra in (
        (other.name, sealed, EXTRA),
        (key.name, sealed, b""),
        (key.name, bent, EXTRA),
        (key.name, sealed[:15], EXTRA),
        (key.name, b"", EXTRA),
    ):
        with pytest.raises(exceptions.BadRequest, match="Decryption failed"):
            client.decrypt(
                request={"name": name, "ciphertext": data, "additional_authenticated_data": extra},
                **NO_RETRY,
            )


@pytest.mark.parametrize("state", ["DISABLED", "DESTROY_SCHEDULED"])
def test_a_version_that_is_not_enabled_neither_seals_nor_opens(
    kms: Kms, client: Client, state: str
) -> None:
    key = kms.key()
    sealed = client.encrypt(name=key.name, plaintext=TEXT).ciphertext
    if state == "DISABLED":
        kms.set_state(key.primary.name, State.DISABLED)
    else:
        client.destroy_crypto_key_version(name=key.primary.name)
    calls: tuple[tuple[Callable[..., Any], dict[str, Any]], ...] = (
        (client.encrypt, {"plaintext": TEXT}),
        (client.decrypt, {"ciphertext": sealed}),
    )
    for call, fields in calls:
        with pytest.raises(exceptions.BadRequest) as refused:
            call(name=key.name, **fields, **NO_RETRY)
        text = f"{key.primary.name} is not enabled, current state is: {state}."
        assert text in str(refused.value)
        assert f"KEY_{state}" in str(refused.value.details)


def test_an_older_version_can_be_named_for_encryption(kms: Kms, client: Client) -> None:
    key = kms.key()
    second = client.create_crypto_key_version(parent=key.name)
    sealed = client.encrypt(name=second.name, plaintext=TEXT)
    assert sealed.name == second.name
    assert not client.decrypt(name=key.name, ciphertext=sealed.ciphertext).used_primary


def test_too_much_data_is_refused(kms: Kms, client: Client) -> None:
    """The limit is 64 KiB for SOFTWARE, 8 KiB for HSM."""
    key = kms.key(version_template={"protection_level": Level.HSM})
    client.encrypt(name=key.name, plaintext=b"x" * 8192)
    with pytest.raises(exceptions.BadRequest, match="8192"):
        client.encrypt(name=key.name, plaintext=b"x" * 8193, **NO_RETRY)


def test_justifications_can_lock_a_key(kms: Kms, client: Client) -> None:
    key = kms.key(key_access_justifications_policy={"allowed_access_reasons": []})
    assert "key_access_justifications_policy" in client.get_crypto_key(name=key.name)
    with pytest.raises(exceptions.Forbidden, match="Key Access Justifications"):
        client.encrypt(name=key.name, plaintext=TEXT, **NO_RETRY)
    reason = kms_v1.AccessReason.CUSTOMER_INITIATED_ACCESS
    policy = {"allowed_access_reasons": [reason]}
    opened = kms_v1.CryptoKey(name=key.name, key_access_justifications_policy=policy)
    client.update_crypto_key(
        crypto_key=opened, update_mask={"paths": ["key_access_justifications_policy"]}
    )
    assert client.encrypt(name=key.name, plaintext=TEXT).ciphertext
