"""Key versions: create, read, list, enable, disable, schedule destruction, restore."""

from __future__ import annotations

from google.cloud import kms_v1

from sandbox.errors import GoogleError
from sandbox.iam_access import authorize
from sandbox.identities import Identity
from sandbox.kms_errors import invalid, precondition
from sandbox.kms_key_rules import check_place
from sandbox.kms_lifecycle import State, find_key, find_version, new_version
from sandbox.kms_lists import paginate
from sandbox.kms_names import canonical, key_of
from sandbox.world import World


def create_crypto_key_version(
    world: World, caller: Identity, request: kms_v1.CreateCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """Make the next version; it does not become the primary by itself."""
    permission = "cloudkms.cryptoKeyVersions.create"
    name = canonical(world, request.parent, "CryptoKey", permission)
    authorize(world, caller, permission, name)
    key = find_key(world, name)
    if key.import_only:
        raise GoogleError("FAILED_PRECONDITION", f"CryptoKey {name} takes imported versions only.")
    check_place(world, key)
    return kms_v1.CryptoKeyVersion(new_version(world, key, world.clock.now()))


def get_crypto_key_version(
    world: World, caller: Identity, request: kms_v1.GetCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """One version."""
    permission = "cloudkms.cryptoKeyVersions.get"
    return kms_v1.CryptoKeyVersion(_find(world, caller, request.name, permission))


def list_crypto_key_versions(
    world: World, caller: Identity, request: kms_v1.ListCryptoKeyVersionsRequest
) -> kms_v1.ListCryptoKeyVersionsResponse:
    """A page of the key's versions, by number."""
    permission = "cloudkms.cryptoKeyVersions.list"
    name = canonical(world, request.parent, "CryptoKey", permission)
    authorize(world, caller, permission, name)
    find_key(world, name)
    page = paginate(
        world.kms.versions[name].values(),
        name,
        request,
    )
    return kms_v1.ListCryptoKeyVersionsResponse(
        crypto_key_versions=page.items,
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def update_crypto_key_version(
    world: World, caller: Identity, request: kms_v1.UpdateCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """Enable or disable a version: the only change that the sandbox knows."""
    asked = request.crypto_key_version
    version = _find(world, caller, asked.name, "cloudkms.cryptoKeyVersions.update")
    if list(request.update_mask.paths) != ["state"]:
        raise invalid("The update_mask of a CryptoKeyVersion must be 'state'.")
    if asked.state not in {State.ENABLED, State.DISABLED}:
        raise invalid("A CryptoKeyVersion can be set to ENABLED or DISABLED only.")
    if version.state not in {State.ENABLED, State.DISABLED}:
        raise _wrong_state(version, "can not be enabled or disabled")
    version.state = asked.state
    return kms_v1.CryptoKeyVersion(version)


def destroy_crypto_key_version(
    world: World, caller: Identity, request: kms_v1.DestroyCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """Schedule the destruction of a version's key material."""
    version = _find(world, caller, request.name, "cloudkms.cryptoKeyVersions.destroy")
    if version.state not in {State.ENABLED, State.DISABLED}:
        raise _wrong_state(version, "can not be destroyed")
    if world.kms.constraints.disable_before_destroy and version.state == State.ENABLED:
        raise _wrong_state(version, "must be disabled before it is destroyed")
    delay = world.kms.crypto_keys[key_of(version.name)].destroy_scheduled_duration
    version.state = State(State.DESTROY_SCHEDULED)
    version.destroy_time = world.clock.now() + delay
    return kms_v1.CryptoKeyVersion(version)


def restore_crypto_key_version(
    world: World, caller: Identity, request: kms_v1.RestoreCryptoKeyVersionRequest
) -> kms_v1.CryptoKeyVersion:
    """Call off a scheduled destruction; the version comes back disabled."""
    version = _find(world, caller, request.name, "cloudkms.cryptoKeyVersions.restore")
    if version.state != State.DESTROY_SCHEDULED:
        raise _wrong_state(version, "is not scheduled for destruction")
    version.state = State(State.DISABLED)
    version.destroy_time = None
    return kms_v1.CryptoKeyVersion(version)


def _find(world: World, caller: Identity, name: str, permission: str) -> kms_v1.CryptoKeyVersion:
    name = canonical(world, name, "CryptoKeyVersion", permission)
    authorize(world, caller, permission, name)
    return find_version(world, name)


def _wrong_state(version: kms_v1.CryptoKeyVersion, why: str) -> GoogleError:
    state = State(version.state).name
    return GoogleError(
        "FAILED_PRECONDITION",
        f"{version.name} {why}, current state is: {state}.",
        [precondition(f"KEY_{state}", version.name)],
    )
