"""Publish what people read as artifacts of the run."""

from __future__ import annotations

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

from cmek.report import artifact_key


@task(
    name="Publish report",
    task_run_name="Publish {kind} of {workspace_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def publish(kind: str, workspace_id: str, markdown: str, description: str) -> None:
    """One Markdown artifact; its versions under one key are the workspace's history."""
    await acreate_markdown_artifact(
        markdown=markdown, key=artifact_key(kind, workspace_id), description=description
    )
