"""All reads of the checks, in three waves: each wave needs results of the one before.

With one folder above the project and one access policy these are 29 requests at most: 12 + 3 + 3 in
the first wave, then 4 + 5 + 1, then 1. On a new project they are 23: 18, then 4, then 1.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from google.iam.v1 import policy_pb2

from cmek._http import Result, ok_value, try_read
from cmek.anthropic.client import AdminApi
from cmek.anthropic.models import Workspace
from cmek.gcp.kms import CloudKms
from cmek.gcp.project_apis import AccessPolicy, CustomConstraint, GoogleReads, ServicePerimeter
from cmek.keys.rules_org import DISABLE_FIRST, LEGACY, LOCATIONS, MANAGED, MINIMUM_DELAY, PROTECTION
from cmek.keys.rules_project import KMS, ON_KEY, ON_PROJECT, ON_RING
from cmek.keys.snapshot import (
    AnthropicFindings,
    Findings,
    GoogleFindings,
    KmsFindings,
    organization_in,
)
from cmek.onboarding.request import OnboardingRequest

CONSTRAINTS: Final = (LEGACY, MANAGED, LOCATIONS, PROTECTION, MINIMUM_DELAY, DISABLE_FIRST)


@dataclass(frozen=True, slots=True)
class Clients:
    """The three clients for all reads."""

    admin: AdminApi
    kms: CloudKms
    google: GoogleReads


async def read_findings(request: OnboardingRequest, clients: Clients) -> Findings:
    """Read everything that the checks judge; a refused read is a result too and raises nothing."""
    async with asyncio.TaskGroup() as group:
        google = group.create_task(_read_google(request, clients.google))
        kms = group.create_task(_read_kms(request, clients))
        anthropic = group.create_task(_read_anthropic(request, clients.admin))
    return Findings(google.result(), kms.result(), anthropic.result())


@dataclass(frozen=True, slots=True)
class _Above:
    """Reads that need the names of the project's ancestors."""

    policies: dict[str, Result[policy_pb2.Policy]]
    custom_constraints: Result[tuple[CustomConstraint, ...]] | None
    access_policies: Result[tuple[AccessPolicy, ...]] | None
    perimeters: tuple[Result[tuple[ServicePerimeter, ...]], ...]


async def _read_google(request: OnboardingRequest, google: GoogleReads) -> GoogleFindings:
    name = request.key_name.project
    async with asyncio.TaskGroup() as group:
        start = group.create_task
        project = start(try_read(google.project(name)))
        billing = start(try_read(google.billing(name)))
        service = start(try_read(google.service(name, KMS)))
        permissions = start(try_read(google.project_permissions(name, ON_PROJECT)))
        policy = start(try_read(google.iam_policy(f"projects/{name}")))
        constraints = {one: start(try_read(google.org_policy(name, one))) for one in CONSTRAINTS}
        ancestors = start(try_read(google.ancestors(name)))
        # the second wave starts as soon as the ancestors are known; the others are still running
        above = start(_read_above(ok_value(await ancestors) or (), google))
    return GoogleFindings(
        caller=google.caller or "user:CALLER",
        project=project.result(),
        billing=billing.result(),
        kms_service=service.result(),
        project_permissions=permissions.result(),
        ancestors=ancestors.result(),
        policies={f"projects/{name}": policy.result()} | above.result().policies,
        org_policies={one: task.result() for one, task in constraints.items()},
        custom_constraints=above.result().custom_constraints,
        access_policies=above.result().access_policies,
        perimeters=above.result().perimeters,
    )


async def _read_above(ancestors: tuple[str, ...], google: GoogleReads) -> _Above:
    organization = organization_in(ancestors)
    async with asyncio.TaskGroup() as group:
        start = group.create_task
        policies = {name: start(try_read(google.iam_policy(name))) for name in ancestors}
        if organization is None:
            custom = access = None
        else:
            custom = start(try_read(google.custom_constraints(organization)))
            access = start(try_read(google.access_policies(organization)))
    access_policies = access.result() if access else None
    async with asyncio.TaskGroup() as group:
        perimeters = [
            group.create_task(try_read(google.perimeters(one.name)))
            for one in ok_value(access_policies) or ()
        ]
    return _Above(
        {name: task.result() for name, task in policies.items()},
        custom.result() if custom else None,
        access_policies,
        tuple(task.result() for task in perimeters),
    )


async def _read_kms(request: OnboardingRequest, clients: Clients) -> KmsFindings:
    kms, name = clients.kms, request.key_name
    async with asyncio.TaskGroup() as group:
        start = group.create_task
        location = start(try_read(kms.get_location(name.project, name.location)))
        ring = start(try_read(kms.get_key_ring(name.key_ring_name)))
        key = start(try_read(kms.get_crypto_key(str(name))))
    # for a resource that does not exist, the read of its policy would only be refused
    has_ring, has_key = ok_value(ring.result()) is not None, ok_value(key.result()) is not None
    async with asyncio.TaskGroup() as group:
        start = group.create_task
        ring_name, key_name = name.key_ring_name, str(name)
        ring_policy = start(try_read(kms.get_iam_policy(ring_name))) if has_ring else None
        key_policy = start(try_read(kms.get_iam_policy(key_name))) if has_key else None
        on_ring = (
            start(try_read(kms.test_iam_permissions(ring_name, ON_RING))) if has_ring else None
        )
        on_key = start(try_read(kms.test_iam_permissions(key_name, ON_KEY))) if has_key else None
        protected = (
            start(try_read(clients.google.protected_resources(key_name))) if has_key else None
        )
    return KmsFindings(
        location=location.result(),
        key_ring=ring.result(),
        key=key.result(),
        ring_policy=ring_policy.result() if ring_policy else None,
        key_policy=key_policy.result() if key_policy else None,
        ring_permissions=on_ring.result() if on_ring else None,
        key_permissions=on_key.result() if on_key else None,
        protected=protected.result() if protected else None,
    )


async def _read_anthropic(request: OnboardingRequest, admin: AdminApi) -> AnthropicFindings:
    async with asyncio.TaskGroup() as group:
        start = group.create_task
        organization = start(try_read(admin.organization.me()))
        external_keys = start(try_read(_lists_external_keys(admin)))
        id_ = request.workspace_id
        workspace = start(try_read(admin.workspaces.retrieve(id_))) if id_ else None
        all_workspaces = None if id_ else start(try_read(_all_workspaces(admin)))
    read = ok_value(workspace.result()) if workspace else None
    attached = read.external_key_id if read else None
    return AnthropicFindings(
        organization=organization.result(),
        external_keys=external_keys.result(),
        workspace=workspace.result() if workspace else None,
        workspaces=all_workspaces.result() if all_workspaces else None,
        workspace_key=(
            await try_read(admin.external_keys.retrieve(attached)) if attached else None
        ),
    )


async def _all_workspaces(admin: AdminApi) -> tuple[Workspace, ...]:
    # without archived ones: they count neither towards the limit nor as a taken name
    return tuple([one async for one in admin.workspaces.list(include_default=True)])


async def _lists_external_keys(admin: AdminApi) -> bool:
    """Whether external keys can be listed; one page is enough to know."""
    async for _ in admin.external_keys.list():
        break
    return True
