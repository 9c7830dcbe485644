"""Evidence of an onboarding: kept with the run at every step, published as an artifact.

The record of a workspace goes on from run to run. While a run is on its way it lives in the run's
own result storage, which only the worker writes; a new run takes up what the last one published,
after having verified it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import get_run_logger, task
from prefect.artifacts import Artifact, acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.filesystems import WritableFileSystem
from prefect.results import get_result_store
from prefect.runtime import flow_run
from pydantic import BaseModel

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.evidence.chain import Chain
from cmek.evidence.entry import Event, EvidenceEntry
from cmek.evidence.events import ADMIN, KMS, wrote
from cmek.evidence.page import evidence_page, record_in
from cmek.evidence.verify import BrokenEvidenceError, loads
from cmek.report import artifact_key
from tasks.crypto_key import EnsuredKey
from tasks.grants import EnsuredGrants
from tasks.key_ring import EnsuredKeyRing
from tasks.memory import recall, remember
from tasks.registration import Registration

_MEMORY = "evidence"


class _Record(BaseModel):
    text: str


async def record(workspace_id: str, *events: Event) -> EvidenceEntry:
    """Add events to the workspace's record; what this run has recorded before is not added again.

    To be awaited by the flow, one call after another.

    Args:
        workspace_id: Whose record.
        events: At least one, from `cmek.evidence.events`.

    Returns:
        The entry of the last event.
    """
    kept = await recall(_MEMORY, _Record)
    chain = loads(kept.text) if kept else await _earlier(workspace_id)
    now = datetime.now(UTC)
    entries = [chain.append(event, run=str(flow_run.get_id()), at=now) for event in events]
    await remember(_MEMORY, _Record(text=chain.dumps()))
    return entries[-1]


def writes_of(
    ring: EnsuredKeyRing, key: EnsuredKey, grants: EnsuredGrants, registration: Registration
) -> tuple[Event, ...]:
    """What guide steps 1 to 5 wrote; nothing for what was there already."""
    name = key.key.name
    events = []
    if ring.created:
        events.append(
            wrote(KMS, "CreateKeyRing", ring.name, before=None, after={"name": ring.name})
        )
    if key.created:
        events.append(wrote(KMS, "CreateCryptoKey", name, before=None, after=key.key))
    if key.label_added:
        after = {"labels": key.key.labels, "users": key.users_before}
        events.append(wrote(KMS, "UpdateCryptoKey", name, before="not read", after=after))
    if grants.written:
        after = {"member": MEMBER, "roles": ROLES}
        events.append(wrote(KMS, "SetIamPolicy", name, before="not read", after=after))
    if registration.created:
        external = registration.external_key_id
        made = {"external_key_id": external, "key_name": name}
        events.append(wrote(ADMIN, "external_keys.create", external, before=None, after=made))
    return tuple(events)


@task(
    name="Evidence",
    task_run_name="Publish evidence of {workspace_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def publish_evidence(workspace_id: str) -> str | None:
    """Publish the record as an artifact, and copy it to the result-storage block when one is set.

    Returns:
        The hash of the last entry; None when this run has recorded nothing.
    """
    kept = await recall(_MEMORY, _Record)
    if kept is None:
        return None
    chain = loads(kept.text)
    await acreate_markdown_artifact(
        markdown=evidence_page(workspace_id, chain),
        key=artifact_key("evidence", workspace_id),
        description=f"{len(chain.entries)} entries, head {chain.head}",
    )
    storage = _storage_block()
    if storage is not None:
        path = f"cmek-evidence/{workspace_id}/{flow_run.get_id()}.jsonl"
        await storage.write_path(path, kept.text.encode())
        get_run_logger().info("Evidence copied to %s in %s", path, type(storage).__name__)
    return chain.head


async def _earlier(workspace_id: str) -> Chain:
    """What earlier runs have published; a new record that says so when that can't be trusted."""
    artifact = await Artifact.aget(artifact_key("evidence", workspace_id))
    if artifact is None:
        return Chain()
    try:
        return loads(record_in(str(artifact.data)))
    except BrokenEvidenceError as error:
        get_run_logger().warning("The published evidence does not verify: %s", error)
        chain = Chain()
        found = Event(
            kind="broken record",
            subject=workspace_id,
            body={"artifact": str(artifact.id), "problem": str(error)},
        )
        chain.append(found, run=str(flow_run.get_id()), at=datetime.now(UTC))
        return chain


def _storage_block() -> WritableFileSystem | None:
    """The run's result storage when somebody set it up; Prefect's default is a local folder."""
    store = get_result_store()
    return store.result_storage if store.result_storage_block_id else None
