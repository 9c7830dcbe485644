"""Decide whether a workspace may be onboarded, and what is left to do. Pure.

Source: https://platform.claude.com/docs/en/manage-claude/workspaces (default workspace, archive)
and …/cmek (a workspace's key is set once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from cmek.anthropic.models import ExternalKey, Organization, Workspace
from cmek.errors import CmekError
from cmek.keys.verdicts import Check
from cmek.models import FrozenModel
from cmek.onboarding.plan import POLICY_CHANGED_TITLE
from cmek.onboarding.policy import OverrideRefusedError, PolicyModel, UnnameableKeyError
from cmek.onboarding.request import (
    OnboardingRequest,
    created_by_run,
    is_named_after_workspace,
    resolve,
    same_name_workspaces,
    shown_workspaces,
)


class AttachmentStatus(StrEnum):
    """Whether the workspace still needs its key."""

    NEEDS_KEY = "needs a key"
    HAS_OUR_KEY = "has this key"


class WorkspaceNotEligibleError(CmekError):
    """This request must not onboard this workspace; the message says why and what to do."""


class WorkspaceReading(FrozenModel):
    """A workspace, as it was read before anything else."""

    workspace: Workspace
    is_default: bool
    """Whether it is, or could be, the default workspace."""
    current_key: ExternalKey | None
    """The external key that it already has; None without one."""


def check_eligibility(request: OnboardingRequest, reading: WorkspaceReading) -> AttachmentStatus:
    """Decide from the first reads, before anything is created.

    Raises:
        WorkspaceNotEligibleError: It is archived, has another key, or is the default workspace and
            the policy does not allow that one.
    """
    workspace, current_key = reading.workspace, reading.current_key
    name = f"workspace {workspace.id} ({workspace.name})"
    if workspace.is_archived:
        raise WorkspaceNotEligibleError(
            f"{name} was archived at {workspace.archived_at}; an archived workspace can't be "
            "restored: choose another one"
        )
    if current_key is not None and current_key.gcp_key_name != str(request.key_name):
        raise WorkspaceNotEligibleError(
            f"{name} already has another key: {current_key.id}, "
            f"{current_key.gcp_key_name or 'not a Google Cloud key'}. A workspace's key can never "
            "be replaced: make a new workspace, or request that key"
        )
    # with this key already on it nothing is attached any more, so the run may verify it
    if reading.is_default and not request.allow_default_workspace and current_key is None:
        raise WorkspaceNotEligibleError(
            f"{name} is the default workspace (or can't be told from it); it serves every API key "
            "without a workspace: choose another one, or a policy with allow_default_workspace on"
        )
    return AttachmentStatus.HAS_OUR_KEY if current_key else AttachmentStatus.NEEDS_KEY


def check_organization(request: OnboardingRequest, organization: Organization) -> None:
    """Pass when the credential belongs to the expected organization, if the policy names one.

    Raises:
        WorkspaceNotEligibleError: The credential is of another organization.
    """
    expected = request.expected_organization
    if expected is not None and organization.id != expected:
        raise WorkspaceNotEligibleError(
            f"the credential in block {request.anthropic_block!r} belongs to organization "
            f"{organization.id} ({organization.name}), expected {expected}: use that "
            "organization's Admin API key, or correct expected_organization in policy "
            f"{request.policy!r}"
        )


def find_created(
    request: OnboardingRequest,
    workspaces: Sequence[Workspace],
    keys: Mapping[str, ExternalKey],
    run_id: str,
) -> Workspace | None:
    """The workspace that was already created for this request; None when the name is still free.

    Args:
        request: The pinned request, with the name of a new workspace.
        workspaces: All workspaces, archived ones too.
        keys: External keys by id.
        run_id: Of this run; its tag marks a workspace that it created, also when the response of
            the create was lost.

    Raises:
        WorkspaceNotEligibleError: Other workspaces have the name; the message says which, and that
            they can be onboarded.
    """
    name = request.create_workspace or ""
    # the tag first: it is proof even if the workspace was renamed since
    created = created_by_run(workspaces, run_id)
    if len(created) == 1 and created[0].external_key_id is not None:
        return created[0]
    if created:
        raise WorkspaceNotEligibleError(
            f"this run created {shown_workspaces(created)}, twice or without its key. Check it in "
            "the Console, and onboard one of them by its id"
        )
    # without this run's tag it may be the result of an earlier run of the same request
    taken = same_name_workspaces(workspaces, name)
    for one in taken:
        key = keys.get(one.external_key_id or "")
        if one.name == name and key and key.gcp_key_name == str(request.key_name):
            return one
    if taken:
        raise WorkspaceNotEligibleError(
            f"a workspace named {name!r}, or so that it looks the same, exists: "
            f"{shown_workspaces(taken)}. No create is sent: onboard that one by its id, or choose "
            "another name"
        )
    return None


def policy_change(request: OnboardingRequest, policy: PolicyModel) -> Check | None:
    """A warning when the policy has changed so that the same form would give another request.

    Args:
        request: As it was pinned at the start, before a new workspace had an id.
        policy: The policy that it names, read again.
    """
    form = request.form
    try:
        # the workspace's name is not known here: any name shows whether the template is valid
        now = resolve(form, policy, workspace_name="workspace").model_dump(mode="json")
    except (OverrideRefusedError, UnnameableKeyError) as error:
        return changed_policy_check(request, str(error).removesuffix(". Nothing was made"))
    was = request.model_dump(mode="json")
    unknown = {"crypto_key"} if is_named_after_workspace(form, policy) else set()
    differs = [
        f"{name} was {was[name]!r}, is {now[name]!r}"
        for name in was
        if name not in unknown and was[name] != now[name]
    ]
    return changed_policy_check(request, "; ".join(differs)) if differs else None


def changed_policy_check(request: OnboardingRequest, found: str) -> Check:
    """The warning that the policy of a run has changed since it started."""
    return Check(
        id="policy_changed",
        title=POLICY_CHANGED_TITLE,
        status="warn",
        evidence=f"{request.policy!r}: {found}. This run goes on with what it was started with",
        remedy="to follow the policy as it is now: reject this run, and start another",
    )
