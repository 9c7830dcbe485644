"""Publish what people read as artifacts of the run."""

from __future__ import annotations

from uuid import UUID

from prefect import get_client
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel

from cmek.onboarding.reports import artifact_key
from tasks._uncached_task import uncached_task
from tasks.memory import recall, remember


class _Published(BaseModel):
    artifact_id: UUID


@uncached_task(
    name="Publish report",
    task_run_name="Publish {kind} of {subject}: {description}",
)
async def publish(kind: str, subject: str, markdown: str, description: str) -> None:
    """One Markdown artifact of this kind a run, brought up to date when there is more to say.

    The versions under its key are the workspace's history, one a run. A workspace that the run
    creates gets one of its own besides the one of its name.
    """
    name = artifact_key(kind, subject)
    known = await recall(name, _Published)
    if known is not None and await _updated(known.artifact_id, markdown, description):
        return
    made = await acreate_markdown_artifact(markdown=markdown, key=name, description=description)
    await remember(name, _Published(artifact_id=made))


async def _updated(artifact_id: UUID, markdown: str, description: str) -> bool:
    """Whether the artifact was still there to be updated."""
    change = ArtifactUpdate(data=markdown, description=description)
    async with get_client() as client:
        try:
            await client.update_artifact(artifact_id, change)
        except ObjectNotFound:
            return False
    return True
