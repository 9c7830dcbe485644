"""Evidence of an onboarding: kept with the run at every step, published as an artifact.

The record of a workspace goes on from run to run. While a run is on its way it lives in the run's
own result storage, which only the worker writes; a new run takes up what the last one published,
after having verified it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import get_run_logger
from prefect.artifacts import Artifact
from prefect.filesystems import WritableFileSystem
from prefect.results import get_result_store
from prefect.runtime import flow_run
from pydantic import BaseModel

from cmek.evidence.events import failed
from cmek.evidence.record import BrokenEvidenceError, Chain, Event, EvidenceEntry, loads
from cmek.evidence.report import evidence_page, record_in
from cmek.onboarding.reports import artifact_key
from tasks.memory import recall, remember
from tasks.reports import publish
from tasks.this_run import run_id

_MEMORY = "evidence"


class _Record(BaseModel):
    text: str


async def record(subject: str, *events: Event) -> tuple[EvidenceEntry, ...]:
    """Add events to the workspace's record; what this run has recorded before is not added again.

    To be awaited by the flow, one call after another.

    Args:
        subject: Whose record: the id of a workspace, or what stands for a new one.
        events: From `cmek.evidence.events`.

    Returns:
        The entry of each event.
    """
    if not events:
        return ()
    kept = await recall(_MEMORY, _Record)
    chain = loads(kept.text) if kept else await _earlier(subject)
    now = datetime.now(UTC)
    entries = tuple(chain.append(event, run=str(run_id()), at=now) for event in events)
    await remember(_MEMORY, _Record(text=chain.dumps()))
    return entries


async def has_recorded() -> bool:
    """Whether this run has recorded anything, also in an earlier attempt."""
    return await recall(_MEMORY, _Record) is not None


async def publish_evidence(subject: str) -> None:
    """Publish what this run has recorded, and copy it to the result-storage block when one is set.

    A run that has recorded nothing leaves the last record as it is.
    """
    kept = await recall(_MEMORY, _Record)
    if kept is None:
        return
    chain = loads(kept.text)
    about = f"{len(chain.entries)} entries, head {chain.head}"
    await publish("evidence", subject, evidence_page(subject, chain), about)
    storage = _storage_block()
    if storage is not None:
        path = f"cmek-evidence/{_folder(subject)}/{run_id()}.jsonl"
        await storage.write_path(path, kept.text.encode())
        get_run_logger().info("Evidence copied to %s in %s", path, type(storage).__name__)


async def publish_failure(subject: str, error: BaseException) -> None:
    """Add how the run ended, and publish; nothing when the run has recorded nothing."""
    if await recall(_MEMORY, _Record) is not None:
        attempt = f"attempt {flow_run.run_count}"
        await record(subject, failed(error, attempt))
        await publish_evidence(subject)


async def _earlier(subject: str) -> Chain:
    """What earlier runs have published; a new record that says so when that can't be trusted."""
    artifact = await Artifact.aget(artifact_key("evidence", subject))
    if artifact is None:
        return Chain()
    try:
        return loads(record_in(str(artifact.data)))
    except BrokenEvidenceError as error:
        get_run_logger().warning("The published evidence does not verify: %s", error)
        found = {"artifact": str(artifact.id), "problem": str(error)}
        chain = Chain()
        broken = Event(kind="broken record", subject=subject, body=dict(found))
        chain.append(broken, run=str(run_id()), at=datetime.now(UTC))
        return chain


def _folder(subject: str) -> str:
    """A new workspace's name may be no name for a folder."""
    return subject if subject.isidentifier() else artifact_key("workspace", subject)


def _storage_block() -> WritableFileSystem | None:
    """The run's result storage when somebody set it up; Prefect's default is a local folder."""
    store = get_result_store()
    return store.result_storage if store.result_storage_block_id else None
