"""Send the events on which people are notified of a key's health."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from prefect import get_client
from prefect.events.schemas.events import Event, RelatedResource, Resource

from cmek.keys.announcements import (
    HealthEvent,
    agreed,
    announced_now,
    event_id,
    health_event,
)
from cmek.keys.history import shown_time
from cmek.keys.verdicts import Health, HealthReason, KeyRecord
from cmek.revalidation.request import shown_id
from tasks.artifacts import recent_records
from tasks.runs import current_run_id


async def announce(record: KeyRecord, previous: KeyRecord | None) -> KeyRecord:
    """Send the events of a change, once even if several runs find it; the record to store.

    Runs that find it at the same time send the same event id; a later one finds the other's record.
    """
    # healthy before and after: nothing to announce, so these records need not be read
    if {record.announced, record.announced_before} != {Health.HEALTHY}:
        record = agreed(record, previous, await recent_records(record.external_key_id))
    if what := health_event(record):
        for reason in announced_now(record):
            await _send_announcement(record, what, reason)
    return record


async def _send_announcement(
    record: KeyRecord, what: HealthEvent, reason: HealthReason | None
) -> None:
    left = reason.time_left(record.checked_at) if reason else None
    await send_event(
        what,
        id_=event_id(record, what, reason),
        resource={
            "prefect.resource.id": f"cmek.key.{record.external_key_id}",
            "prefect.resource.name": record.key_name,
            "cmek.verdict": record.verdict,
        },
        payload={
            "external_key_id": record.external_key_id,
            "key_name": record.key_name,
            "workspaces": list(record.workspaces),
            "workspace_ids": [shown_id(one) for one in record.workspaces],
            "verdict": record.verdict,
            "was": record.announced_before,
            "since": record.since.isoformat(),
            "rule": reason.rule if reason else "",
            "why": reason.says if reason else "",
            "time_left": shown_time(left) if left is not None else "",
            "commands": list(reason.commands) if reason else [],
        },
    )


async def send_event(
    event: str, *, resource: dict[str, str], payload: dict[str, Any], id_: UUID | None = None
) -> None:
    """Send one event and wait until the server has it.

    Prefect's own `emit_event` only queues it: a killed process could have recorded a change for
    which no notification is ever sent.
    """
    run = RelatedResource(
        {
            "prefect.resource.id": f"prefect.flow-run.{current_run_id()}",
            "prefect.resource.role": "flow-run",
        }
    )
    made = Event(
        event=event,
        resource=Resource(resource),
        related=[run],
        payload=payload,
        id=id_ or uuid4(),
    )
    async with get_client() as client:
        await client.request("POST", "/events", json=[made.model_dump(mode="json")])
