"""Guide step 2: the crypto key, with the organization label."""

from __future__ import annotations

from uuid import UUID

from prefect import get_run_logger, task

from cmek.errors import listed
from cmek.gcp.iam import members_with
from cmek.gcp.resources import CryptoKey
from cmek.keys.conditions import has_organization_label, may_use
from cmek.keys.rules_key import check_adoption, check_key, key_spec
from cmek.models import FrozenModel
from cmek.names import organization_label
from cmek.onboarding.request import OnboardingRequest
from tasks.clients import kms_client
from tasks.validation import NotYetError, not_yet


class EnsuredKey(FrozenModel):
    """The key, and what this run did to it."""

    key: CryptoKey
    created: bool = False
    label_added: bool = False
    users_before: tuple[str, ...] = ()
    """Of an adopted key: who could already encrypt or decrypt with it."""


class VersionPendingError(NotYetError):
    """The primary version is still being generated."""


@task(
    name="2 Crypto key",
    task_run_name="2 Crypto key",
    retries=6,
    retry_delay_seconds=[1, 2, 4, 8, 16, 30],
    retry_condition_fn=not_yet,
)
async def ensure_crypto_key(
    request: OnboardingRequest, organization: UUID, *, ring_is_new: bool
) -> EnsuredKey:
    """Use the key when it exists and fits, else create it; label an adopted one.

    Raises:
        KeyRefusedError: An existing key does not fit, or is not ours and may not be adopted.
        VersionPendingError: Retried; the primary is not there yet.
        GoogleApiError: Refused by Google.
    """
    kms = await kms_client(request.kms_block)
    name = str(request.key_name)
    # nothing can be in a ring that this run has just made
    key = None if ring_is_new else await kms.get_crypto_key(name)
    created = False
    if key is None:
        key, created = await kms.create_crypto_key(name, key_spec(request, organization))
    check_key(key, request)
    users: tuple[str, ...] = ()
    label_added = False
    if not has_organization_label(key, organization):
        policy = await kms.get_iam_policy(name)
        using = {one.role for one in policy.bindings if may_use(one.role)}
        users = members_with(policy, using)
        check_adoption(key, request, users)
        key = await kms.add_label(name, *organization_label(organization))
        label_added = True
    if key.primary is not None and key.primary.state == "PENDING_GENERATION":
        raise VersionPendingError(f"{key.primary.name} is still being generated")
    get_run_logger().info("%s %s", "Created" if created else "Using", key.name)
    if users:
        get_run_logger().warning("Adopted; it already serves %s", listed(users))
    return EnsuredKey(key=key, created=created, label_added=label_added, users_before=users)
