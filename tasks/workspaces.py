"""First reads: whose credential is it, and what does the workspace look like?"""

from __future__ import annotations

from cmek.anthropic.errors import NotFoundError
from cmek.anthropic.models import ExternalKey, Organization, Workspace
from cmek.models import FrozenModel
from cmek.onboarding.eligibility import find_created
from cmek.onboarding.request import OnboardingRequest, born_of, namesakes
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client
from tasks.this_run import run_id


class WorkspaceNotFoundError(Exception):
    """No such workspace in the organization of the credential."""


class WorkspaceReading(FrozenModel):
    """A workspace, whether it is (or may be) the default one, and its key."""

    workspace: Workspace
    is_default: bool
    current_key: ExternalKey | None


@uncached_task(
    name="Read organization",
    task_run_name="Read organization",
)
async def read_organization(block: str) -> Organization:
    """The organization of the credential (prerequisite: the Admin API key works).

    Raises:
        AdminApiError: The credential does not work, or the service does not answer.
    """
    return await (await admin_client(block)).organization.me()


@uncached_task(
    name="Read workspace",
    task_run_name="Read workspace {workspace_id}",
)
async def read_workspace(block: str, workspace_id: str) -> WorkspaceReading:
    """The workspace and the key that it has.

    No field of the object says that it is the default one, but a list without `include_default`
    leaves that one out. What can't be told counts as default.

    Raises:
        WorkspaceNotFoundError: Not in this organization.
    """
    api = await admin_client(block)
    listed = [w async for w in api.workspaces.list(ids=[workspace_id], include_archived=True)]
    found = next((w for w in listed if w.id == workspace_id), None)
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
        is_default=found is None or workspace.name == "Default",
        current_key=await api.external_keys.retrieve(key_id) if key_id else None,
    )


@uncached_task(
    name="Search workspaces",
    task_run_name="Search workspaces for {request.create_workspace}",
)
async def search_workspace(request: OnboardingRequest) -> WorkspaceReading | None:
    """What this request has created already, over all pages; None when nothing has its name.

    Raises:
        AdmissionRefusedError: Another workspace has the name.
    """
    api, name = await admin_client(request.anthropic_block), request.create_workspace or ""
    listed = api.workspaces.list(include_archived=True, include_default=True)
    everything = [one async for one in listed]
    close = (*born_of(everything, str(run_id())), *namesakes(everything, name))
    ids = {one.external_key_id for one in close if one.external_key_id is not None}
    keys = {one: await api.external_keys.retrieve(one) for one in sorted(ids)}
    found = find_created(request, everything, keys, str(run_id()))
    if found is None:
        return None
    return WorkspaceReading(
        workspace=found,
        is_default=found.name == "Default",
        current_key=keys.get(found.external_key_id or ""),
    )
