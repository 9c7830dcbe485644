"""After the attach: marks on the workspace and on the key. Best effort, once.

The onboarding stands without them, so what goes wrong here is recorded and never raised.
"""

from __future__ import annotations

from prefect import get_run_logger

from cmek.anthropic.errors import AdminApiError
from cmek.evidence.events import ADMIN, KMS, in_use_label, not_written, with_evidence_tag, wrote
from cmek.evidence.record import Event, EvidenceEntry
from cmek.gcp.errors import GoogleApiError
from cmek.onboarding.request import OnboardingRequest
from cmek.tags import EVIDENCE_TAG
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client, kms_client
from tasks.evidence import record


async def leave_marks(
    request: OnboardingRequest, key_name: str, attached: EvidenceEntry, *, label: bool = True
) -> None:
    """Both marks, and an entry about each.

    Only for the run that attached the key, never for one that found it attached.

    Args:
        request: The pinned request.
        key_name: Full resource name of the attached key.
        attached: The entry of the attach, read back.
        label: Whether the key is labelled as in use.
    """
    workspace_id = request.subject
    tagged = await tag_workspace(request.anthropic_block, workspace_id, attached.hash)
    await record(workspace_id, tagged)
    if label:
        await record(workspace_id, await label_key(request.kms_block, key_name, workspace_id))


@uncached_task(
    name="Mark the workspace",
    task_run_name="Tag {workspace_id} with its evidence",
)
async def tag_workspace(block: str, workspace_id: str, entry_hash: str) -> Event:
    """Tag the workspace with the hash of the `attached` entry; the event for the record."""
    try:
        api = await admin_client(block)
        workspace = await api.workspaces.retrieve(workspace_id)
        tags = with_evidence_tag(workspace.tags, entry_hash)
        if tags is None:
            return _skipped("workspaces.update", workspace_id, f"it has a tag {EVIDENCE_TAG}")
        tagged = await api.workspaces.update(workspace_id, tags=tags)
    except AdminApiError as error:
        return _skipped("workspaces.update", workspace_id, str(error))
    return wrote(
        ADMIN,
        "workspaces.update",
        workspace_id,
        before={"tags": workspace.tags},
        after={"tags": tagged.tags},
        request_id=tagged.request_id,
    )


@uncached_task(
    name="Mark the key",
    task_run_name="Label {key_name} as in use",
)
async def label_key(kms_block: str, key_name: str, workspace_id: str) -> Event:
    """Label the key as used by this workspace, others' labels kept; the event for the record."""
    label, value = in_use_label(workspace_id)
    try:
        kms = await kms_client(kms_block)
        before = await kms.get_crypto_key(key_name)
        if before is not None and label in before.labels:
            return _skipped("UpdateCryptoKey", key_name, f"it has a label {label}")
        after = await kms.add_label(key_name, label, value)
    except GoogleApiError as error:
        return _skipped("UpdateCryptoKey", key_name, str(error))
    return wrote(
        KMS,
        "UpdateCryptoKey",
        key_name,
        before={"labels": before.labels if before else None},
        after={"labels": after.labels},
    )


def _skipped(action: str, resource: str, why: str) -> Event:
    get_run_logger().warning("%s of %s left out: %s", action, resource, why)
    return not_written(action, resource, why)
