"""Read the live keys of workspaces: the external key names them, Cloud KMS describes them."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from cmek.admin_api import AdminApi
from cmek.admin_models import ExternalKey
from cmek.anthropic_identity import MEMBER
from cmek.cloud_kms import CloudKms
from cmek.iam_policy import unconditional_roles
from cmek.terraform.managed_key import ManagedKey, NotManageableError


async def read_all_keys(admin: AdminApi, kms: CloudKms) -> tuple[ManagedKey, ...]:
    """Every Google Cloud key that a workspace has, archived workspaces too: their data is there.

    One that can't be read fails the whole: a module that left it out would ask for its removal.

    Raises:
        NotManageableError: A key is not found, or is not one that Anthropic can use.
        AdminApiError, GoogleApiError: A read was refused.
    """
    users = await _workspaces_by_key(admin)
    registered = [key async for key in admin.external_keys.list()]
    return await _read(kms, registered, users)


async def read_workspace_keys(
    admin: AdminApi, kms: CloudKms, workspace_id: str
) -> tuple[ManagedKey, ...]:
    """The key of one workspace, with every workspace that shares it.

    Raises:
        NotManageableError: The workspace has no Google Cloud key, or one that can't be described.
        AdminApiError, GoogleApiError: A read was refused.
    """
    workspace = await admin.workspaces.retrieve(workspace_id)
    if workspace.external_key_id is None:
        raise NotManageableError(
            f"workspace {workspace.id} ({workspace.name}) has no key: onboard it first"
        )
    registered = await admin.external_keys.retrieve(workspace.external_key_id)
    if registered.gcp_key_name is None:
        raise NotManageableError(
            f"workspace {workspace.id} has {registered.id}, a key of "
            f"{registered.provider_config.type}, not of Google Cloud"
        )
    return await _read(kms, [registered], await _workspaces_by_key(admin))


async def _workspaces_by_key(admin: AdminApi) -> dict[str, set[str]]:
    users: dict[str, set[str]] = defaultdict(set)
    async for workspace in admin.workspaces.list(include_archived=True, include_default=True):
        if workspace.external_key_id is not None:
            users[workspace.external_key_id].add(workspace.id)
    return users


async def _read(
    kms: CloudKms, registered: list[ExternalKey], users: dict[str, set[str]]
) -> tuple[ManagedKey, ...]:
    """Keys by crypto key: one may be registered more than once."""
    by_name: dict[str, set[str]] = defaultdict(set)
    for external in registered:
        if external.gcp_key_name and users.get(external.id):
            by_name[external.gcp_key_name] |= users[external.id]
    return tuple(
        await asyncio.gather(*(_read_key(kms, name, ids) for name, ids in by_name.items()))
    )


async def _read_key(kms: CloudKms, name: str, workspaces: set[str]) -> ManagedKey:
    key = await kms.get_crypto_key(name)
    if key is None:
        raise NotManageableError(
            f"{name} is not found, but {', '.join(sorted(workspaces))} needs it: was it deleted? "
            "Nothing was written"
        )
    policy = await kms.get_iam_policy(name)
    return ManagedKey.of(key, unconditional_roles(policy, MEMBER), workspaces)
