"""Publish what people read as artifacts of the run.

Terraform from the live key, as an artifact of the run.

Each key's history: artifacts under one key, the newest of which is the last record.

What a revalidation leaves for people: the table, the picture, and the next look.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.artifacts import (
    acreate_image_artifact,
    acreate_markdown_artifact,
    acreate_table_artifact,
)
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment
from prefect.states import Scheduled
from pydantic import BaseModel

from cmek.anthropic.errors import AdminApiError
from cmek.gcp.errors import GoogleApiError
from cmek.keys.verdicts import KeyRecord, UnreachableState
from cmek.onboarding.reports import artifact_key
from cmek.onboarding.request import OnboardingRequest
from cmek.revalidation.fleet import (
    FLEET,
    SIGNS,
    FleetRow,
    counts,
    image_url,
    key_page,
    merged,
    picture,
    published,
    read_page,
    read_rows,
)
from cmek.revalidation.request import RevalidationRequest
from cmek.tags import CMEK_TAG, LOOK_AGAIN_TAG
from cmek.terraform.module import (
    NotManageableError,
    read_workspace_keys,
    render_module,
    terraform_page,
)
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client, kms_client
from tasks.runs import current_run_id, load_state, save_state


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
    known = await load_state(name, _Published)
    if known is not None and await _updated(known.artifact_id, markdown, description):
        return
    made = await acreate_markdown_artifact(markdown=markdown, key=name, description=description)
    await save_state(name, _Published(artifact_id=made))


async def _updated(artifact_id: UUID, markdown: str, description: str) -> bool:
    """Whether the artifact was still there to be updated."""
    change = ArtifactUpdate(data=markdown, description=description)
    async with get_client() as client:
        try:
            await client.update_artifact(artifact_id, change)
        except ObjectNotFound:
            return False
    return True


async def publish_terraform(request: OnboardingRequest) -> None:
    """Read the workspace's key and publish the module that adopts it.

    What can't be read is logged and left out: `cmek terraform` can be run at any time.
    """
    workspace_id = request.subject
    try:
        module = await read_module(request.anthropic_block, request.kms_block, workspace_id)
    except (AdminApiError, GoogleApiError, NotManageableError) as error:
        get_run_logger().warning("No Terraform was written: %s", error)
        return
    page = terraform_page(workspace_id, module)
    await publish("terraform", workspace_id, page, "adopts the key as it is now")


@uncached_task(
    name="Terraform",
    task_run_name="Terraform for {workspace_id}",
)
async def read_module(anthropic_block: str, kms_block: str, workspace_id: str) -> dict[str, str]:
    """The module of the workspace's live key, text by file name.

    Raises:
        NotManageableError: The workspace has no key that Terraform can describe.
        AdminApiError, GoogleApiError: A read was refused.
    """
    admin, kms = await admin_client(anthropic_block), await kms_client(kms_block)
    return render_module(await read_workspace_keys(admin, kms, workspace_id))


KIND = "key"
PAGE = 200
"""The most that Prefect's API lists at once."""


def page_key(external_key_id: str) -> str:
    """The artifact key of a key's history."""
    return artifact_key(KIND, external_key_id)


async def publish_page(record: KeyRecord) -> None:
    """Add a look to a key's history."""
    await acreate_markdown_artifact(
        markdown=key_page(record),
        key=page_key(record.external_key_id),
        description=f"{SIGNS[record.verdict]}: {record.key_name}",
    )


async def last_records(external_key_ids: Sequence[str]) -> dict[str, KeyRecord]:
    """The last record of each of these keys; one that nobody can read is left out."""
    records: dict[str, KeyRecord] = {}
    for ids in _batches(external_key_ids):
        wanted = ArtifactCollectionFilterKey(any_=[page_key(one) for one in ids])
        async with get_client() as client:
            found = await client.read_latest_artifacts(
                artifact_filter=ArtifactCollectionFilter(key=wanted), limit=PAGE
            )
        for artifact in found:
            record = read_page(str(artifact.data))
            if record is not None:
                records[record.external_key_id] = record
    return records


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))


PICTURE = "cmek-fleet-picture"
ENDED = "cmek.revalidation.ended"
"""The event of each look at all keys; its absence means that nobody watches."""
_SOONEST = timedelta(seconds=1)


async def last_fleet() -> dict[str, FleetRow]:
    """The rows of the last table, by external key."""
    wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=[FLEET]))
    async with get_client() as client:
        found = await client.read_latest_artifacts(artifact_filter=wanted, limit=1)
    return read_rows(_table(found[0].data)) if found else {}


@uncached_task(
    name="Publish fleet",
    task_run_name="Publish fleet",
)
async def publish_fleet(looked: Sequence[FleetRow], *, all_keys: bool) -> None:
    """One table for all keys, worst first, and the picture of their last days.

    The last table is read again here, so that a look at some keys that ended meanwhile is kept.
    """
    rows = merged(await last_fleet(), looked, all_keys=all_keys)
    found = counts(rows)
    summary = ", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in found.items())
    await acreate_table_artifact(table=published(rows), key=FLEET, description=summary)
    today = datetime.now(UTC).date()
    await acreate_image_artifact(
        image_url=image_url(picture(rows, today)), key=PICTURE, description=summary
    )
    if all_keys:
        payload = {str(verdict): count for verdict, count in found.items()}
        emit_event(ENDED, {"prefect.resource.id": "cmek.fleet"}, payload=payload)


@uncached_task(
    name="Schedule follow-up",
    task_run_name="Schedule follow-up",
)
async def schedule_follow_up(
    request: RevalidationRequest, unreachable: Sequence[UnreachableState]
) -> None:
    """One run that looks again at every key that could not be reached, at the time that is due.

    The idempotency key makes it one even when this run is retried.
    """
    times = [one.next_check for one in unreachable if one.next_check is not None]
    if not times:
        return
    if deployment.id is None:
        get_run_logger().warning(
            "%d keys could not be reached, and nobody looks again: without a deployment this run "
            "can't schedule another",
            len(times),
        )
        return
    again = request.model_copy(update={"external_keys": (), "look_again": tuple(unreachable)})
    async with get_client() as client:
        run = await client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"request": again.model_dump(mode="json")},
            state=Scheduled(scheduled_time=max(min(times), datetime.now(UTC) + _SOONEST)),
            idempotency_key=f"cmek-look-again-{current_run_id()}",
            tags=[CMEK_TAG, LOOK_AGAIN_TAG],
        )
    get_run_logger().info("%d keys are looked at again by %s", len(unreachable), run.name)


def _table(data: Any) -> Any:  # noqa: ANN401 - Prefect keeps a table as text or as JSON
    return json.loads(data) if isinstance(data, str) else data
