"""External keys: create, list, retrieve, update, delete, and Anthropic's validation of a key.

A validation acts as Anthropic's service account, reads the key, encrypts and decrypts. So it fails
without a grant, as Anthropic's does. The texts of its failures are invented: no list of them is
published.
Sources: https://platform.claude.com/docs/en/api/admin,
https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from google.cloud import kms_v1

from cmek.names import BadNameError, KeyName, is_us_single_region, organization_label
from sandbox.admin.api import (
    LONGEST_WAIT_SECONDS,
    AuthenticatedCall,
    CreateExternalKey,
    UpdateExternalKey,
    cursor,
    integer,
    operation,
    parse_body,
    read_cursor,
)
from sandbox.admin.state import GcpConfig, StoredExternalKey, new_id
from sandbox.errors import AnthropicError, GoogleError
from sandbox.kms.crypto import decrypt, encrypt
from sandbox.kms.keys import get_crypto_key
from sandbox.world import World

TIMED_OUT: Final = "Timed out waiting for the key management service."
_TEXTS: Final = {
    "PERMISSION_DENIED": "Permission denied on the Cloud KMS key.",
    "NOT_FOUND": "The Cloud KMS key was not found.",
    "FAILED_PRECONDITION": "The Cloud KMS key version is not enabled.",
}


def validate_key(world: World, key: StoredExternalKey) -> str | None:
    """Why the validation of the key fails; None when it succeeds."""
    switches = world.switches
    if switches.validation_times_out or switches.validate_seconds > LONGEST_WAIT_SECONDS:
        return TIMED_OUT
    if not isinstance(key.provider_config, GcpConfig):
        return f"The sandbox has no key management service of {key.provider_config.type}."
    try:
        return _check(world, key.provider_config.key_name)
    except GoogleError as error:
        return _TEXTS.get(error.status, f"Cloud KMS answered {error.status}.")


def _check(world: World, key_name: str) -> str | None:
    try:
        name = KeyName.parse(key_name)
    except BadNameError:
        return "The key name is not the resource name of a Cloud KMS key."
    if not is_us_single_region(name.location):
        return "The key must be in a single US region."
    anthropic, plaintext = world.identities.anthropic, secrets.token_bytes(32)
    # through the API's own handlers, as Anthropic's account: each missing grant is refused there
    key = get_crypto_key(world, anthropic, kms_v1.GetCryptoKeyRequest(name=key_name))
    algorithms = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
    if key.purpose != kms_v1.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT or (
        key.version_template.algorithm
        not in {algorithms.GOOGLE_SYMMETRIC_ENCRYPTION, algorithms.EXTERNAL_SYMMETRIC_ENCRYPTION}
    ):
        return "The key must be for symmetric encryption and decryption."
    label, value = organization_label(world.admin.organization.id)
    if key.labels.get(label) != value:
        return "The key does not carry this organization's label."
    # a real round trip: reading the key alone would not show a version that is not enabled
    sealing = kms_v1.EncryptRequest(name=key_name, plaintext=plaintext)
    ciphertext = encrypt(world, anthropic, sealing).ciphertext
    opening = kms_v1.DecryptRequest(name=key_name, ciphertext=ciphertext)
    opened = decrypt(world, anthropic, opening).plaintext
    return None if opened == plaintext else "The key does not decrypt what it encrypted."


DISABLED: Final = "Customer-managed encryption keys are not enabled for this organization."


@operation("external_keys.create", "POST /external_keys", write=True)
def create(call: AuthenticatedCall) -> dict[str, Any]:
    """Register a key; Cloud KMS is not called."""
    switches = call.world.switches
    if not switches.cmek_enabled:
        raise AnthropicError(switches.create_cmek_disabled_status, DISABLED)
    body = parse_body(CreateExternalKey, call.body)
    if isinstance(body.provider_config, GcpConfig):
        _check_key_name(call, body.provider_config.key_name)
    call.state.check_user_profile(body.user_profile_id)
    now = call.now()
    key = StoredExternalKey(
        id=new_id("ekey"),
        sequence=call.state.next_sequence(),
        created_at=now,
        updated_at=now,
        **{name: getattr(body, name) for name in CreateExternalKey.model_fields},
    )
    call.state.external_keys[key.id] = key
    return _rendered(call, key)


@operation("external_keys.list", "GET /external_keys")
def list_(call: AuthenticatedCall) -> dict[str, Any]:
    """One page, newest first."""
    limit = integer(call.query, "limit", 20, 100)
    page = call.query.get("page")
    before = read_cursor(page) if page else call.state.last_sequence + 1
    newest_first = reversed(call.state.external_keys.values())
    found = [key for key in newest_first if key.sequence < before]
    shown = found[:limit]
    return {
        "data": [_rendered(call, key) for key in shown],
        "next_page": cursor(shown[-1].sequence) if len(found) > limit else None,
    }


@operation("external_keys.retrieve", "GET /external_keys/{target}")
def retrieve(call: AuthenticatedCall) -> dict[str, Any]:
    """One key."""
    return _rendered(call, call.state.external_key(call.target))


@operation("external_keys.update", "POST /external_keys/{target}", write=True)
def update(call: AuthenticatedCall) -> dict[str, Any]:
    """Change the display name at any time, the rest only while no workspace uses the key."""
    key = call.state.external_key(call.target)
    body = parse_body(UpdateExternalKey, call.body)
    given = {name: getattr(body, name) for name in body.model_fields_set}
    # a value that stays the same is no change, so it is accepted for an attached key, too
    changes = {name: value for name, value in given.items() if value != getattr(key, name)}
    if changes.keys() & {"geo", "provider_config"}:
        _check_reconfigurable(call, key, body)
    for name, value in changes.items():
        setattr(key, name, value)
    if changes:
        key.updated_at = call.now()
    return _rendered(call, key)


@operation("external_keys.delete", "DELETE /external_keys/{target}", write=True)
def delete(call: AuthenticatedCall) -> dict[str, Any]:
    """Delete an external key that no workspace uses."""
    key = call.state.external_key(call.target)
    _check_policy(call, key)
    if call.state.is_attached(key.id):
        status = call.world.switches.delete_attached_status
        raise AnthropicError(status, "The external key is still referenced by a workspace.")
    del call.state.external_keys[key.id]
    return {"id": key.id, "type": "external_key_deleted"}


@operation("external_keys.validate", "POST /external_keys/{target}/validate", validates=True)
def validate(call: AuthenticatedCall) -> dict[str, Any]:
    """Encrypt and decrypt once; a failure is a result with HTTP 200, not an error."""
    failure = validate_key(call.world, call.state.external_key(call.target))
    status = "failure" if failure else "success"
    return {"type": "external_key_validation", "status": status, "error": failure}


def _rendered(call: AuthenticatedCall, key: StoredExternalKey) -> dict[str, Any]:
    return key.render(attached=call.state.is_attached(key.id))


def _check_key_name(call: AuthenticatedCall, key_name: str) -> None:
    if call.world.switches.create_checks_key_name:
        try:
            KeyName.parse(key_name)
        except BadNameError as error:
            raise AnthropicError(400, f"provider_config.key_name: {error}") from error
    if call.world.switches.duplicate_external_key == "conflict" and any(
        isinstance(one.provider_config, GcpConfig) and one.provider_config.key_name == key_name
        for one in call.state.external_keys.values()
    ):
        raise AnthropicError(409, "An external key with this key name already exists.")


def _check_reconfigurable(
    call: AuthenticatedCall, key: StoredExternalKey, body: UpdateExternalKey
) -> None:
    _check_policy(call, key)
    if "geo" in body.model_fields_set and body.geo is None:
        raise AnthropicError(400, "geo: input should be 'us'")
    if "provider_config" in body.model_fields_set:
        if body.provider_config is None:
            raise AnthropicError(400, "provider_config: input should be an object")
        if key.provider_config.type == "gcp" or body.provider_config.type == "gcp":
            raise AnthropicError(400, "The key name of a Google Cloud key cannot be changed.")
        if key.provider_config.type != body.provider_config.type:
            raise AnthropicError(400, "The provider of an external key cannot be changed.")
    if call.state.is_attached(key.id):
        text = "The configuration of an attached external key cannot be changed."
        raise AnthropicError(call.world.switches.replace_key_status, text)


def _check_policy(call: AuthenticatedCall, key: StoredExternalKey) -> None:
    if key.id in (call.world.switches.workspace_policy_keys or ()):
        text = "The external key is listed in the organization's Workspace Policy."
        raise AnthropicError(400, text, "external_key_in_workspace_policy")
