"""Read what a dry plan needs; writes nothing."""

from __future__ import annotations

from cmek.anthropic_identity import MEMBER
from cmek.gcp.iam import unconditional_roles
from cmek.onboarding.plan import Standings
from cmek.onboarding.request import OnboardingRequest
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client, kms_client
from tasks.registration import find_external_key


@uncached_task(
    name="Look at what exists",
    task_run_name="Look at what exists",
)
async def read_standings(request: OnboardingRequest) -> Standings:
    """Ring, key, grants and external key as they are."""
    kms = await kms_client(request.kms_block)
    admin = await admin_client(request.anthropic_block)
    name = str(request.key_name)
    ring = await kms.get_key_ring(request.key_name.key_ring_name)
    key = await kms.get_crypto_key(name) if ring else None
    policy = await kms.get_iam_policy(name) if key else None
    external_key = await find_external_key(admin, name)
    attached = False
    if external_key is not None and request.workspace_id is not None:
        workspace = await admin.workspaces.retrieve(request.workspace_id)
        attached = workspace.external_key_id == external_key.id
    return Standings(
        ring_exists=ring is not None,
        key=key,
        granted_roles=unconditional_roles(policy, MEMBER) if policy else frozenset(),
        external_key_id=external_key.id if external_key else None,
        attached=attached,
    )
