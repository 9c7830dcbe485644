"""What a revalidation leaves for people: the table, the picture, and the next look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import get_client, get_run_logger
from prefect.artifacts import acreate_image_artifact, acreate_table_artifact
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey
from prefect.events import emit_event
from prefect.runtime import deployment
from prefect.states import Scheduled

from cmek.keys.verdicts import Unreachability
from cmek.revalidation.fleet import (
    FleetRow,
    counts,
    image_url,
    merged,
    picture,
    published,
    read_rows,
)
from cmek.revalidation.request import RevalidationRequest
from cmek.tags import CMEK_TAG, LOOK_AGAIN_TAG
from tasks._uncached_task import uncached_task
from tasks.this_run import run_id

FLEET = "cmek-fleet"
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
    request: RevalidationRequest, unreachable: Sequence[Unreachability]
) -> None:
    """One run that looks again at every key that could not be reached, at the time that is due.

    The idempotency key makes it one even when this run is retried.
    """
    times = [one.next_look for one in unreachable if one.next_look is not None]
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
            idempotency_key=f"cmek-look-again-{run_id()}",
            tags=[CMEK_TAG, LOOK_AGAIN_TAG],
        )
    get_run_logger().info("%d keys are looked at again by %s", len(unreachable), run.name)


def _table(data: Any) -> Any:  # noqa: ANN401 - Prefect keeps a table as text or as JSON
    return json.loads(data) if isinstance(data, str) else data
