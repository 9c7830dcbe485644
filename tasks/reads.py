"""The reads on which an onboarding decides; none is cached.

The workspace and its organization, the live facts of a plan, all prerequisites, the causes of a
failed validation, what exists already, and the signatures of an approval.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cmek.anthropic.client import AdminApi
from cmek.anthropic.errors import NotFoundError
from cmek.anthropic.models import Organization, Workspace
from cmek.anthropic_identity import MEMBER
from cmek.errors import CmekError, bounded
from cmek.gcp.iam import unconditional_roles
from cmek.keys.diagnosis import Failure, diagnose, gather_facts
from cmek.keys.prerequisites import run_checks
from cmek.keys.reader import Clients
from cmek.keys.rules import Cause
from cmek.keys.verdicts import CheckReport
from cmek.names import may_be_one_key
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse
from cmek.onboarding.eligibility import (
    WorkspaceReading,
    changed_policy_check,
    find_created,
    policy_change,
)
from cmek.onboarding.plan import ExistingResources, LiveFacts
from cmek.onboarding.policy import PolicyModel, effective_settings
from cmek.onboarding.request import (
    OnboardingForm,
    OnboardingRequest,
    created_by_run,
    is_named_after_workspace,
    resolve,
    same_name_workspaces,
)
from cmek.signatures.signers import Signers, find_signers, required_signatures
from cmek.signatures.statement import SignedApproval, UnreadableApprovalError, parse_signed
from cmek.signatures.verification import BadSignatureError, Signatures, Verified, verify
from tasks._task_options import uncached_task
from tasks.clients import (
    BlockMissingError,
    admin_client,
    google_client,
    kms_client,
    onboarding_policy,
)
from tasks.crypto_key import KeyOrigin, key_origin
from tasks.registration import find_external_key
from tasks.runs import current_run_id


class WorkspaceNotFoundError(CmekError):
    """No such workspace in the organization of the credential."""


@uncached_task(name="Read the policy", task_run_name="Read policy {name}")
async def read_policy(name: str) -> PolicyModel:
    """The platform team's policy, read now.

    Raises:
        BlockMissingError: There is no such block, or its content is not valid.
    """
    return await onboarding_policy(name)


@uncached_task(name="Apply the policy", task_run_name="Apply policy {form.policy}")
async def resolve_request(form: OnboardingForm) -> OnboardingRequest:
    """Complete the request with the settings of its policy as they are now.

    Raises:
        BlockMissingError: The policy can't be read; nothing outside was called.
        OverrideRefusedError: The policy does not let a request change a setting.
        WorkspaceNotFoundError: The key is to be named after a workspace that does not exist.
    """
    policy, name = await onboarding_policy(form.policy), None
    if is_named_after_workspace(form, policy):
        settings = effective_settings(policy, form.overrides, name=form.policy)
        reading = await read_workspace.fn(settings.anthropic_block, form.workspace)
        name = reading.workspace.name
    return resolve(form, policy, workspace_name=name)


@uncached_task(name="Read organization")
async def read_organization(block: str) -> Organization:
    """The organization of the credential (prerequisite: the Admin API key works).

    Raises:
        AdminApiError: The credential does not work, or the service does not respond.
    """
    return await (await admin_client(block)).organization.me()


@uncached_task(name="Read workspace")
async def read_workspace(block: str, workspace_id: str) -> WorkspaceReading:
    """The workspace and the key that it has.

    No field of the object marks the default workspace, but a list without `include_default` leaves
    it out. A workspace that is not in the list is taken for the default one.

    Raises:
        WorkspaceNotFoundError: Not in this organization.
    """
    api = await admin_client(block)
    found = await _listed_workspace(api, workspace_id)
    try:
        workspace = found or await api.workspaces.retrieve(workspace_id)
    except NotFoundError as error:
        raise WorkspaceNotFoundError(
            f"workspace {workspace_id} is not in the organization of block {block!r}: check the "
            f"id in the Console, or use that organization's credential ({error})"
        ) from error
    key_id = workspace.external_key_id
    return WorkspaceReading(
        workspace=workspace,
        is_default=found is None or workspace.is_named_default,
        current_key=await api.external_keys.retrieve(key_id) if key_id else None,
    )


@uncached_task(name="Search workspaces")
async def search_workspace(request: OnboardingRequest) -> WorkspaceReading | None:
    """The workspace that this request has created already; None when nothing has its name.

    Raises:
        WorkspaceNotEligibleError: Another workspace has the name.
    """
    api, name = await admin_client(request.anthropic_block), request.create_workspace or ""
    everything = await api.workspaces.everything()
    close = (
        *created_by_run(everything, str(current_run_id())),
        *same_name_workspaces(everything, name),
    )
    ids = {one.external_key_id for one in close if one.external_key_id is not None}
    keys = {one: await api.external_keys.retrieve(one) for one in sorted(ids)}
    found = find_created(request, everything, keys, str(current_run_id()))
    if found is None:
        return None
    return WorkspaceReading(
        workspace=found,
        is_default=found.is_named_default,
        current_key=keys.get(found.external_key_id or ""),
    )


class KeyNotFoundError(CmekError):
    """The crypto key is not there (any more)."""


@uncached_task(name="Read live facts")
async def read_live_facts(request: OnboardingRequest, external_key_id: str) -> LiveFacts:
    """All reads at once, never cached: a run that was suspended must not see old responses.

    Raises:
        KeyNotFoundError: The crypto key is not found.
        AdminApiError, GoogleApiError: A read was refused.
    """
    admin = await admin_client(request.anthropic_block)
    kms = await kms_client(request.kms_block)
    google = await google_client(request.kms_block)
    name = str(request.key_name)
    read = await asyncio.gather(
        admin.organization.me(),
        _workspace(admin, request),
        admin.external_keys.retrieve(external_key_id),
        _external_keys_of(admin, name),
        kms.get_crypto_key(name),
        kms.list_crypto_key_versions(name),
        kms.get_iam_policy(name),
    )
    organization, (workspace, listed), external_key, registered, key, versions, policy = read
    if key is None:
        raise KeyNotFoundError(f"{name} is not found: was it deleted?")
    return LiveFacts(
        organization_id=organization.id,
        **workspace,
        other_workspaces=tuple(
            sorted(
                one.id
                for one in listed
                if one.external_key_id in {external_key.id, *registered}
                and one.id != request.workspace_id
            )
        ),
        key=key,
        versions=tuple(versions),
        granted_roles=unconditional_roles(policy, MEMBER),
        external_key_id=external_key.id,
        external_key_name=external_key.gcp_key_name,
        admin_base_url=admin.base_url,
        kms_endpoint=kms.endpoint,
        checks_endpoint=google.endpoint,
        token_endpoints=tuple(
            sorted({one for one in (admin.token_endpoint, google.token_endpoint) if one})
        ),
    )


async def _external_keys_of(admin: AdminApi, key_name: str) -> set[str]:
    """Ids of all external keys of a crypto key: it may have been registered more than once."""
    return {
        one.id
        async for one in admin.external_keys.list()
        if one.gcp_key_name is not None and may_be_one_key(one.gcp_key_name, key_name)
    }


async def _workspace(
    admin: AdminApi, request: OnboardingRequest
) -> tuple[dict[str, Any], Sequence[Workspace]]:
    """The facts about the workspace, or about the name of a new one; and all workspaces."""
    listed = admin.workspaces.everything()
    if request.workspace_id is None:
        name, everything = request.create_workspace or "", await listed
        return {
            "workspace_id": None,
            "workspace_name": name,
            "workspace_archived": False,
            "workspace_external_key_id": None,
            "same_name_workspaces": tuple(one.id for one in same_name_workspaces(everything, name)),
        }, everything
    workspace, everything, is_default = await asyncio.gather(
        admin.workspaces.retrieve(request.workspace_id),
        listed,
        _is_default(admin, request.workspace_id, request),
    )
    return {
        "workspace_id": workspace.id,
        "workspace_name": workspace.name,
        "workspace_is_default": is_default,
        "workspace_archived": workspace.is_archived,
        "workspace_external_key_id": workspace.external_key_id,
    }, everything


async def _is_default(admin: AdminApi, workspace_id: str, request: OnboardingRequest) -> bool:
    # without the permission an onboarding of the default workspace was refused at its start
    if not request.allow_default_workspace:
        return False
    found = await _listed_workspace(admin, workspace_id)
    return found is None or found.is_named_default


async def _listed_workspace(admin: AdminApi, workspace_id: str) -> Workspace | None:
    """The workspace, from a list that leaves the default one out; None when it is not in it."""
    # archived ones too: one that is not in the list would be taken for the default workspace
    listed = [w async for w in admin.workspaces.list(ids=[workspace_id], include_archived=True)]
    # a server that ignores the filter lists other workspaces too
    return next((w for w in listed if w.id == workspace_id), None)


class PrerequisitesFailedError(CmekError):
    """At least one check fails; nothing was made. The message names each with its remedy."""

    def __init__(self, report: CheckReport) -> None:
        lines = [
            f"{c.title}: {bounded(c.evidence, 400)} To fix it: {bounded(c.remedy or '', 800)}"
            for c in report.failed
        ]
        super().__init__("prerequisites fail, nothing was made. " + " | ".join(lines))
        self.report = report


@uncached_task(name="Prerequisites")
async def check_prerequisites(
    request: OnboardingRequest, started_with: OnboardingRequest | None = None
) -> CheckReport:
    """Run every check; a refused read gives `unknown`, never an exception.

    A policy that was edited while the run waited gives a warning: the run keeps the settings that
    it was started with, and the approver must see that a new run would get others.

    Args:
        request: The request, with the workspace's id if the workspace exists.
        started_with: The run's original request, when its new workspace exists by now.
    """
    report = await run_checks(request, await _clients(request))
    try:
        policy = await onboarding_policy(request.policy)
        changed = policy_change(started_with or request, policy)
    except BlockMissingError:
        changed = changed_policy_check(request, "its block can't be loaded any more")
    return report.model_copy(update={"checks": (*report.checks, changed)}) if changed else report


@uncached_task(name="Diagnose")
async def find_causes(request: OnboardingRequest, failure: Failure) -> tuple[Cause, ...]:
    """Every known cause, the most likely first; each proved, excluded or open by our own reads."""
    return diagnose(await gather_facts(request, failure, await _clients(request)))


async def _clients(request: OnboardingRequest) -> Clients:
    return Clients(
        await admin_client(request.anthropic_block),
        await kms_client(request.kms_block),
        await google_client(request.kms_block),
    )


@uncached_task(name="Read existing resources")
async def read_existing_resources(
    request: OnboardingRequest, organization: UUID
) -> ExistingResources:
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
    return ExistingResources(
        ring_exists=ring is not None,
        key=key,
        key_is_ours=key is not None
        and KeyOrigin.OURS
        is await key_origin(
            request,
            key,
            organization,
            has_workspace=external_key is not None and external_key.is_attached,
        ),
        granted_roles=unconditional_roles(policy, MEMBER) if policy else frozenset(),
        external_key_id=external_key.id if external_key else None,
        attached=attached,
    )


@uncached_task(name="Who must sign")
async def signatures_needed(request: OnboardingRequest) -> int:
    """How many approvers must sign; 0 on a worker without signers.

    Raises:
        SignersRefusedError: Signatures are required and can't be verified here.
    """
    return required_signatures(find_signers(), await _requested_signatures(request))


async def _requested_signatures(request: OnboardingRequest) -> int:
    """What the request asks for; with a gateway at least one, since it refuses unsigned ones."""
    admin = await admin_client(request.anthropic_block)
    return max(request.signatures, int(admin.is_gateway))


@uncached_task(name="Verify signatures")
async def verify_signatures(
    request: OnboardingRequest, approval_request: ApprovalRequest, response: ApprovalResponse
) -> Signatures:
    """Read the signers file again and verify each signature; a bad one is reported as a problem.

    The highest number of worker, pinned request and stored approval request is required, so that
    a record that was rewritten with fewer signatures lowers nothing.

    Raises:
        SignersRefusedError: The signers file is missing or can't be used any more.
    """
    signers = find_signers()
    wanted = await _requested_signatures(request)
    required = required_signatures(signers, max(wanted, approval_request.signatures))
    # a rejection attaches nothing, so anyone may send it unsigned
    if not response.signed_approvals or response.decision == "reject":
        return Signatures(required)
    if signers is None:
        return Signatures(required, problems=("this worker has no signers to verify it with",))
    try:
        given = parse_signed(response.signed_approvals)
    except UnreadableApprovalError as error:
        return Signatures(required, problems=(str(error),))
    now = datetime.now(UTC)
    found = [await _verified(one, signers, now) for one in given]
    return Signatures(
        required,
        verified=tuple(one for one in found if isinstance(one, Verified)),
        problems=tuple(one for one in found if isinstance(one, str)),
    )


async def _verified(one: SignedApproval, signers: Signers, now: datetime) -> Verified | str:
    try:
        return await verify(one, signers, at=now)
    except BadSignatureError as error:
        return str(error)
