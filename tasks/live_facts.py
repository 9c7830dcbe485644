"""Read everything that a plan rests on, now."""

from __future__ import annotations

import asyncio
from typing import Any

from cmek.anthropic.client import AdminApi
from cmek.anthropic_identity import MEMBER
from cmek.gcp.iam import unconditional_roles
from cmek.onboarding.plan import LiveFacts
from cmek.onboarding.request import OnboardingRequest, namesakes
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client, kms_client


class KeyGoneError(Exception):
    """The crypto key is not there (any more)."""


@uncached_task(
    name="4 Read live facts",
    task_run_name="4 Read live facts of {request.subject}",
)
async def read_live_facts(request: OnboardingRequest, external_key_id: str) -> LiveFacts:
    """All reads at once, never cached: a run that was suspended must not see old answers.

    The key's name (guide step 4) is the one that Cloud KMS returned.

    Raises:
        KeyGoneError: The crypto key is not found.
        AdminApiError, GoogleApiError: A read was refused.
    """
    admin = await admin_client(request.anthropic_block)
    kms = await kms_client(request.kms_block)
    name = str(request.key_name)
    organization, workspace, external_key, key, versions, policy = await asyncio.gather(
        admin.organization.me(),
        _workspace(admin, request),
        admin.external_keys.retrieve(external_key_id),
        kms.get_crypto_key(name),
        kms.list_crypto_key_versions(name),
        kms.get_iam_policy(name),
    )
    if key is None:
        raise KeyGoneError(f"{name} is not found: was it deleted? Nothing was attached")
    return LiveFacts(
        organization_id=organization.id,
        **workspace,
        key=key,
        versions=tuple(versions),
        granted_roles=unconditional_roles(policy, MEMBER),
        external_key_id=external_key.id,
        external_key_name=external_key.gcp_key_name,
        admin_base_url=admin.base_url,
        kms_endpoint=kms.endpoint,
    )


async def _workspace(admin: AdminApi, request: OnboardingRequest) -> dict[str, Any]:
    """The fields about the workspace, or about a new one, that nothing has its name."""
    if request.workspace_id is None:
        name = request.create_workspace or ""
        listed = [one async for one in admin.workspaces.list(include_default=True)]
        return {
            "workspace_id": None,
            "workspace_name": name,
            "workspace_archived": False,
            "workspace_external_key_id": None,
            "namesakes": tuple(one.id for one in namesakes(listed, name)),
        }
    workspace = await admin.workspaces.retrieve(request.workspace_id)
    return {
        "workspace_id": workspace.id,
        "workspace_name": workspace.name,
        "workspace_archived": workspace.is_archived,
        "workspace_external_key_id": workspace.external_key_id,
    }
