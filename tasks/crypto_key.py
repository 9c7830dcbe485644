"""Guide step 2: the crypto key, with the organization label.

A key that exists is this organization's own only if the label is on it, and the worker's records
say that an onboarding made it or a workspace of the organization has it. The label alone proves
nothing: anyone who may update the key can set it, and an adoption that failed half way leaves it.
Any other key is adopted: nothing is written to it before an approval that names who can use it
already. That needs the request's `adopt_existing_key`, unless an onboarding has sent a create for
this key whose answer was lost: the key is then most likely ours, but somebody else may have
created it first.
"""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from uuid import UUID

from prefect import get_run_logger

from cmek.errors import listed
from cmek.gcp.errors import GoogleApiError
from cmek.gcp.resources import CryptoKey
from cmek.keys.conditions import has_organization_label, other_users
from cmek.keys.rules_key import KeyRefusedError, check_adoption, key_spec, refuse_unfit_key
from cmek.models import FrozenModel
from cmek.names import organization_label
from cmek.onboarding.request import OnboardingRequest
from tasks._task_options import NotYetError, not_yet, uncached_task
from tasks.clients import admin_client, kms_client
from tasks.registration import find_external_key
from tasks.runs import KeyCreate, created_by_this_run, remember_create, remembered_create


class EnsuredKey(FrozenModel):
    """The key, and what this run did to it."""

    key: CryptoKey
    created: bool = False
    adopting: bool = False
    """It exists, and nothing shows that it is ours: label and grants wait for an approval."""
    users_before: tuple[str, ...] = ()
    """Who could already encrypt or decrypt with an adopted key."""


class VersionPendingError(NotYetError):
    """The primary version is still being generated."""


@uncached_task(name="2 Crypto key")
async def ensure_crypto_key(
    request: OnboardingRequest, organization: UUID, *, ring_is_new: bool
) -> EnsuredKey:
    """Use the key when it exists and fits, else create it; nothing is written to one that exists.

    Raises:
        KeyRefusedError: An existing key does not fit, or is not ours and may not be adopted.
        GoogleApiError: Refused by Google.
    """
    kms = await kms_client(request.kms_block)
    name = str(request.key_name)
    # nothing can be in a ring that this run has just made
    key = None if ring_is_new else await kms.get_crypto_key(name)
    created = False
    if key is None:
        # before the create: if its answer is lost, the key needs no `adopt_existing_key`
        await remember_create(name, KeyCreate.SENT)
        try:
            key, created = await kms.create_crypto_key(name, key_spec(request, organization))
        except GoogleApiError as error:
            with suppress(GoogleApiError):  # the create's error is raised, not that of this read
                # refused, and no key is there: one that appears later is not ours
                if not error.problem.transient and await kms.get_crypto_key(name) is None:
                    await remember_create(name, KeyCreate.REFUSED)
            raise
        if created:
            await remember_create(name, KeyCreate.CONFIRMED)
    refuse_unfit_key(key, request)
    users: tuple[str, ...] = ()
    # not by `created` alone: a Retry, or a later run, finds a key that an earlier call made
    origin = KeyOrigin.OURS if created else await key_origin(request, key, organization)
    # the run may have been killed after its create: the evidence must still name it
    created = created or await created_by_this_run(name)
    adopting = origin is not KeyOrigin.OURS
    if adopting:
        users = other_users(await kms.get_iam_policy(name))
        if origin is KeyOrigin.UNPROVEN:
            check_adoption(key, request, users)
    get_run_logger().info("%s %s", "Created" if created else "Using", key.name)
    if users:
        get_run_logger().warning("Not touched yet: it already serves %s", listed(users))
    return EnsuredKey(key=key, created=created, adopting=adopting, users_before=users)


@uncached_task(
    name="2 Primary version",
    retries=6,
    retry_delay_seconds=[1, 2, 4, 8, 16, 30],
    retry_condition_fn=not_yet,
)
async def wait_for_primary(block: str, key_name: str) -> None:
    """Wait while Cloud KMS generates the key's first version; a task of its own only reads again.

    Raises:
        VersionPendingError: Retried; the version is not generated yet.
        GoogleApiError: Refused by Google.
    """
    key = await (await kms_client(block)).get_crypto_key(key_name)
    if key is not None and key.is_pending:
        raise VersionPendingError(f"the primary version of {key_name} is still being generated")


class KeyOrigin(StrEnum):
    """Who made a key that exists."""

    OURS = "ours"
    """An onboarding of this organization, or a workspace of it has the key."""
    IN_DOUBT = "in doubt"
    """An onboarding sent a create for it, and the answer is not known."""
    UNPROVEN = "unproven"
    """Nothing shows that it is ours."""


async def key_origin(
    request: OnboardingRequest,
    key: CryptoKey,
    organization: UUID,
    *,
    has_workspace: bool | None = None,
) -> KeyOrigin:
    """Who made a key that exists, by its label, the worker's records and the workspaces.

    Args:
        request: Names the key.
        key: As it was read.
        organization: Whose label must be on it.
        has_workspace: Whether a workspace has the key's external key; read here when None.
    """
    if not has_organization_label(key, organization):
        return KeyOrigin.UNPROVEN
    create = await remembered_create(str(request.key_name))
    if create is KeyCreate.CONFIRMED:
        return KeyOrigin.OURS
    if has_workspace is None:
        known = await find_external_key(await admin_client(request.anthropic_block), key.name)
        has_workspace = known is not None and known.is_attached
    if has_workspace:
        return KeyOrigin.OURS
    return KeyOrigin.IN_DOUBT if create is KeyCreate.SENT else KeyOrigin.UNPROVEN


@uncached_task(name="2 Organization label")
async def ensure_organization_label(
    request: OnboardingRequest, organization: UUID
) -> tuple[CryptoKey, bool]:
    """Put the label on a key that exists, after an approval or for a repair.

    Returns:
        The key, and whether this run had to write the label.

    Raises:
        KeyRefusedError: The key is gone, or does not fit.
        GoogleApiError: Refused by Google.
    """
    kms = await kms_client(request.kms_block)
    name = str(request.key_name)
    key = await kms.get_crypto_key(name)
    if key is None:
        raise KeyRefusedError(f"{name} is not there any more: was it deleted?")
    refuse_unfit_key(key, request)
    if has_organization_label(key, organization):
        return key, False
    return await kms.add_label(name, *organization_label(organization)), True
