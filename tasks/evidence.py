"""Evidence of an onboarding: recorded at every step, published as an artifact.

The record of a workspace continues from run to run. During a run it is kept in the worker's
records, which only the worker writes; a new run continues what the last one published,
after having verified it. After the attach, workspace and key are marked with it: best effort,
once. The onboarding is complete without the marks, so a failure there is recorded, never raised.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import Artifact
from prefect.runtime import flow_run
from pydantic import BaseModel

from cmek.anthropic.errors import AdminApiError
from cmek.anthropic.models import ExternalKey
from cmek.anthropic_identity import MEMBER, ROLES
from cmek.evidence.events import (
    ADMIN,
    KMS,
    failed,
    not_written,
    open_permits,
    with_evidence_tag,
    wrote,
)
from cmek.evidence.record import Chain, Event, EvidenceEntry, EvidenceIntegrityError, loads
from cmek.evidence.report import evidence_page, record_in
from cmek.gcp.errors import GoogleApiError
from cmek.gcp.resources import CryptoKey
from cmek.names import artifact_key, in_use_label
from cmek.onboarding.request import OnboardingRequest
from cmek.tags import EVIDENCE_TAG
from tasks._task_options import uncached_task
from tasks.artifacts import publish
from tasks.clients import admin_client, kms_client
from tasks.crypto_key import EnsuredKey
from tasks.runs import (
    copy_evidence,
    current_run_id,
    load_state,
    never_ends_the_run,
    save_state,
)

_MEMORY = "evidence"


class _RecordText(BaseModel):
    text: str


async def record(subject: str, *events: Event) -> tuple[EvidenceEntry, ...]:
    """Add events to the workspace's record; what this run has recorded before is not added again.

    For the flow only, one call after another: it reads the chain, extends it and writes it back.

    Args:
        subject: The id of a workspace, or `new:NAME` for one that is to be created.
        events: From `cmek.evidence.events`.

    Returns:
        The entry of each event.
    """
    if not events:
        return ()
    kept = await load_state(_MEMORY, _RecordText)
    # the published artifact is read once only, since anyone with the API could change it
    chain = loads(kept.text) if kept else await _earlier(subject)
    now = datetime.now(UTC)
    entries = tuple(chain.append(event, run=str(current_run_id()), at=now) for event in events)
    await save_state(_MEMORY, _RecordText(text=chain.dumps()))
    return entries


async def may_have_attached() -> bool:
    """Whether an attach of this run took effect, or may have; also one of an earlier attempt."""
    return bool(open_permits(await _own_entries()))


async def tries_so_far(approval_request: str) -> int:
    """How often the gate has decided about the response to this approval request of this run."""
    stages = f"{approval_request} try "
    decisions = [one for one in await _own_entries() if one.kind == "gate_decision"]
    return sum(one.subject.startswith(stages) for one in decisions)


async def _own_entries() -> list[EvidenceEntry]:
    kept, run = await load_state(_MEMORY, _RecordText), str(current_run_id())
    return [one for one in loads(kept.text).entries if one.run == run] if kept else []


async def recorded_by(run: UUID) -> Chain | None:
    """The record that another run keeps on this worker; None when it has recorded nothing here.

    Raises:
        RecordTamperedError: Somebody else has written it.
        RecordsError: It can't be read.
        EvidenceIntegrityError: It does not verify.
    """
    kept = await load_state(_MEMORY, _RecordText, run=run)
    return loads(kept.text) if kept else None


async def publish_evidence(subject: str) -> None:
    """Publish what this run has recorded, and keep a copy among the worker's records.

    A run that has recorded nothing leaves the last record as it is.
    """
    kept = await load_state(_MEMORY, _RecordText)
    if kept is None:
        return
    chain = loads(kept.text)
    # the name of a new workspace may be unfit for a folder
    folder = subject if subject.isidentifier() else artifact_key("workspace", subject)
    # first: the copy is for when Prefect's server can't be used
    path = await copy_evidence(folder, kept.text)
    get_run_logger().info("Evidence kept as %s among the worker's records", path)
    about = f"{len(chain.entries)} entries, head {chain.head}"
    await publish("evidence", subject, evidence_page(subject, chain), about)


async def publish_failure(subject: str, error: BaseException) -> None:
    """Add the failure to the evidence and publish it, if the run has recorded anything.

    Never raises: that error would replace the run's own failure.
    """
    with never_ends_the_run("The failure is not in the evidence"):
        if await load_state(_MEMORY, _RecordText) is not None:
            await record(subject, failed(error, f"attempt {flow_run.run_count}"))
            await publish_evidence(subject)


def _verified_page(page: str) -> Chain:
    """The record in a published page.

    Raises:
        EvidenceIntegrityError: It does not verify, or has entries that claim to be of this run.
    """
    chain = loads(record_in(page))
    if any(entry.run == str(current_run_id()) for entry in chain.entries):
        raise EvidenceIntegrityError("it has entries of this run, which has written none yet")
    return chain


async def _earlier(subject: str) -> Chain:
    """The record that earlier runs published; if that can't be trusted, a new one that says so."""
    artifact = await Artifact.aget(artifact_key("evidence", subject))
    if artifact is None:
        return Chain()
    try:
        chain = _verified_page(str(artifact.data))
    except EvidenceIntegrityError as error:
        get_run_logger().warning("The published evidence does not count: %s", error)
        found = {"artifact": str(artifact.id), "problem": str(error)}
        chain = Chain()
        broken = Event(kind="broken_record", subject=subject, body=dict(found))
        chain.append(broken, run=str(current_run_id()), at=datetime.now(UTC))
    return chain


async def label_attached_resources(
    request: OnboardingRequest, key_name: str, attached: EvidenceEntry, *, label: bool = True
) -> None:
    """Tag the workspace and label the key, with an entry in the evidence about each.

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


@uncached_task(name="Mark the workspace")
async def tag_workspace(block: str, workspace_id: str, entry_hash: str) -> Event:
    """Tag the workspace with the hash of the `attached` entry; the event for the record."""
    try:
        api = await admin_client(block)
        workspace = await api.workspaces.retrieve(workspace_id)
        tags = with_evidence_tag(workspace.tags, entry_hash)
        if tags is None:  # the tag exists, and is never overwritten
            planted = workspace.tags[EVIDENCE_TAG]
            if planted != entry_hash:
                get_run_logger().warning(
                    "Workspace %s had a tag %s=%s before this run attached its key: somebody else "
                    "has set it, and it does not vouch for this evidence",
                    workspace_id,
                    EVIDENCE_TAG,
                    planted,
                )
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


@uncached_task(name="Mark the key")
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
        which="in use",
    )


def _skipped(action: str, resource: str, why: str) -> Event:
    get_run_logger().warning("%s of %s left out: %s", action, resource, why)
    return not_written(action, resource, why)


def key_ring_event(name: str, *, created: bool) -> tuple[Event, ...]:
    """What guide step 1 wrote; nothing for a ring that existed."""
    event = wrote(KMS, "CreateKeyRing", name, before=None, after={"name": name})
    return (event,) if created else ()


def crypto_key_event(key: EnsuredKey) -> tuple[Event, ...]:
    """What guide step 2 wrote; nothing for a key that existed."""
    event = wrote(KMS, "CreateCryptoKey", key.key.name, before=None, after=key.key)
    return (event,) if key.created else ()


def _retry() -> str:
    """Which attempt of the run it is: somebody may have removed what an earlier one wrote."""
    return f"attempt {flow_run.run_count}" if flow_run.run_count > 1 else ""


def label_event(
    key: CryptoKey, *, written: bool, users_before: tuple[str, ...] = ()
) -> tuple[Event, ...]:
    """The organization label of a key that existed; nothing when it was there."""
    before = {"users": users_before}
    event = wrote(KMS, "UpdateCryptoKey", key.name, before=before, after=key, which=_retry())
    return (event,) if written else ()


def grants_event(key_name: str, *, written: bool) -> tuple[Event, ...]:
    """What guide step 3 wrote; nothing for grants that existed."""
    before = {"member": MEMBER, "lacked": "one or both of the roles"}
    after = {"member": MEMBER, "roles": ROLES}
    event = wrote(KMS, "SetIamPolicy", key_name, before=before, after=after, which=_retry())
    return (event,) if written else ()


def registration_event(key_name: str, key: ExternalKey, *, created: bool) -> tuple[Event, ...]:
    """What guide step 5 wrote; nothing for a key that was registered."""
    after = {"external_key_id": key.id, "key_name": key_name}
    action, request_id = "external_keys.create", key.request_id
    event = wrote(ADMIN, action, key.id, before=None, after=after, request_id=request_id)
    return (event,) if created else ()
