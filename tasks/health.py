"""Look at one onboarded key: read, judge, tell, keep."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext
from prefect.events import emit_event

from cmek._http import Failed, Ok, Result
from cmek.anthropic.errors import AdminApiError
from cmek.anthropic.models import Validation
from cmek.keys.health import change, event_id, judge, onboarded, unfinished
from cmek.keys.snapshot import KeyReading
from cmek.keys.verdicts import KeyRecord, Look
from cmek.onboarding.plan import LiveFacts
from cmek.revalidation.fleet import SIGNS, shown_time
from cmek.revalidation.request import KeyRef, Registered, key_ref, shown_workspace
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client, kms_client
from tasks.key_pages import last_records, publish_page
from tasks.sweep import Ring, Sweep, policy_view
from tasks.this_run import run_id


class UnfinishedError(Exception):
    """The deadline came before the look was done."""


def _one_look(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    """A run that was killed and is retried keeps the looks that it had finished."""
    sweep, ref = parameters["sweep"], parameters["ref"]
    return f"{context.task_run.flow_run_id}-{sweep.attempt}-look-{ref.external_key_id}"


@uncached_task(
    name="Read registered keys",
    task_run_name="Read registered keys",
)
async def read_registered_keys(block: str) -> Registered:
    """All external keys of Google Cloud (every page), and the workspaces that use them.

    Raises:
        AdminApiError: They can't be listed, so nothing can be revalidated.
    """
    api = await admin_client(block)
    organization = await api.organization.me()
    users: dict[str, list[str]] = {}
    async for workspace in api.workspaces.list(include_archived=True, include_default=True):
        if workspace.external_key_id is not None:
            users.setdefault(workspace.external_key_id, []).append(shown_workspace(workspace))
    refs = [key_ref(key, users) async for key in api.external_keys.list()]
    return Registered(
        organization_id=organization.id, refs=tuple(ref for ref in refs if ref is not None)
    )


@task(
    name="Revalidate key",
    task_run_name="Revalidate {ref.external_key_id}",
    persist_result=True,
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_one_look),
    cache_expiration=timedelta(hours=1),
    retries=0,
)
async def revalidate_key(sweep: Sweep, ring: Ring, ref: KeyRef) -> KeyRecord:
    """One look: everything is read anew, judged by pure rules, and kept in the key's history.

    Raises:
        UnfinishedError: The deadline came first.
    """
    try:
        async with asyncio.timeout((sweep.deadline - datetime.now(UTC)).total_seconds()):
            previous = await sweep.previous(ring, ref)
            async with sweep.looking:
                reading = await _read(sweep, ring, ref, previous)
    except TimeoutError:
        raise UnfinishedError(f"{ref.external_key_id}: not done by {sweep.deadline}") from None
    record = judge(reading, previous, _look(sweep, ref, reading.now))
    _announce(record)
    async with sweep.writing:
        await publish_page(record)
    get_run_logger().info("%s: %s", ref.key_name, SIGNS[record.verdict])
    return record


@uncached_task(
    name="Record for later looks",
    task_run_name="Record {facts.external_key_id} for later looks",
)
async def record_onboarding(facts: LiveFacts, users_before: tuple[str, ...] = ()) -> None:
    """Begin the key's history with what was true when it was attached.

    A key that other workspaces use has a history already, which stays as it is.
    """
    if await last_records([facts.external_key_id]):
        return
    now = datetime.now(UTC)
    await publish_page(onboarded(facts, users_before=users_before, run_id=str(run_id()), now=now))


async def record_unfinished(sweep: Sweep, ring: Ring, ref: KeyRef, why: str) -> KeyRecord:
    """The record of a key that could not be looked at."""
    previous = await sweep.previous(ring, ref)
    now = datetime.now(UTC)
    record = unfinished(
        _nothing_read(sweep, ref, previous, now), previous, _look(sweep, ref, now), why
    )
    async with sweep.writing:
        await publish_page(record)
    return record


async def _read(sweep: Sweep, ring: Ring, ref: KeyRef, previous: KeyRecord | None) -> KeyReading:
    """Anthropic's validation takes the longest, so the rest is read beside it."""
    async with asyncio.TaskGroup() as group:
        validation = group.create_task(_validation(sweep.request.anthropic_block, ref))
        parts = group.create_task(_kms_parts(sweep, ring, ref))
    reading = _nothing_read(sweep, ref, previous, datetime.now(UTC))
    return replace(reading, validation=validation.result(), **parts.result())


async def _kms_parts(sweep: Sweep, ring: Ring, ref: KeyRef) -> dict[str, Any]:
    if "/cryptoKeys/" not in ref.key_name:
        return {}
    key = await sweep.crypto_key(ring, ref)
    found = isinstance(key, Ok) and key.value is not None
    if not found or sweep.request.depth == "quick":
        return {"key": key}
    kms = await kms_client(sweep.request.kms_block)

    async def versions() -> tuple[Any, ...]:
        return tuple(await kms.list_crypto_key_versions(ref.key_name))

    at = ref.location
    all_versions, policy, ring_policy, project_policy = await asyncio.gather(
        sweep.paced(at, versions),
        sweep.paced(at, lambda: policy_view(kms, ref.key_name)),
        sweep.ring_policy(ring, ref),
        sweep.project_policy(ref),
    )
    return {
        "key": key,
        "versions": all_versions,
        "policy": policy,
        "ring_policy": ring_policy,
        "project_policy": project_policy,
    }


async def _validation(block: str, ref: KeyRef) -> Result[Validation]:
    api = await admin_client(block)
    try:
        return Ok(await api.external_keys.validate(ref.external_key_id))
    except AdminApiError as error:
        return Failed(str(error.status or "CONNECTION"), str(error), remedy=error.advice or None)


def _nothing_read(
    sweep: Sweep, ref: KeyRef, previous: KeyRecord | None, now: datetime
) -> KeyReading:
    asked = sweep.asked_to.get(ref.external_key_id)
    return KeyReading(
        external_key_id=ref.external_key_id,
        registered_name=ref.key_name,
        registered_at=ref.registered_at,
        workspaces=ref.workspaces,
        organization_id=sweep.organization_id,
        now=now,
        depth=sweep.request.depth,
        validation=Failed("NOT_ASKED", "not asked"),
        key=None,
        baseline=previous.baseline if previous and not sweep.request.record_anew else None,
        # what the follow-up carries counts when the key's own history was lost
        unreachable=previous.unreachable if previous else asked,
    )


def _look(sweep: Sweep, ref: KeyRef, now: datetime) -> Look:
    return Look(run_id=sweep.run_id, now=now, asked_to=ref.external_key_id in sweep.asked_to)


def _announce(record: KeyRecord) -> None:
    """Send the event of a change; the same event when the same run finds it again."""
    what = change(record)
    if what is None:
        return
    worst = record.worst
    left = worst.time_left(record.checked_at) if worst else None
    emit_event(
        event=what,
        id=event_id(record, what),
        resource={
            "prefect.resource.id": f"cmek.key.{record.external_key_id}",
            "prefect.resource.name": record.key_name,
            "cmek.verdict": record.verdict,
        },
        payload={
            "external_key_id": record.external_key_id,
            "key_name": record.key_name,
            "workspaces": list(record.workspaces),
            "verdict": record.verdict,
            "was": record.announced_before,
            "since": record.since.isoformat(),
            "why": worst.says if worst else "",
            "time_left": shown_time(left) if left is not None else "",
            "commands": list(worst.commands) if worst else [],
        },
    )
