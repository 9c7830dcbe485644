"""Revalidate onboarded keys: shared reads, the check of one key, the fleet table, the follow-up.

The keys of one run share the rate limit, the lists and IAM policies of key rings, and the last
records, so that a large fleet costs few requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, TypeVar
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import ArtifactCollection, FlowRun
from prefect.runtime import deployment
from prefect.states import Scheduled

from cmek._http import Failed, Ok, Result, try_read
from cmek.anthropic.models import Validation
from cmek.errors import CmekError
from cmek.gcp.iam import PolicyView
from cmek.gcp.resources import CryptoKey, KeyVersion
from cmek.keys.announcements import (
    is_news,
)
from cmek.keys.health import (
    UNFINISHED,
    judge,
    needs_validation,
    unfinished,
)
from cmek.keys.history import SIGNS
from cmek.keys.snapshot import KeySnapshot
from cmek.keys.verdicts import CheckRun, Health, KeyRecord, UnreachableState
from cmek.revalidation.fleet import (
    FLEET,
    FleetRow,
    counts,
    merged,
    overview,
    published,
    read_rows,
)
from cmek.revalidation.request import (
    KeyRef,
    RateLimiter,
    RegisteredKeys,
    RevalidationRequest,
    key_ref,
    shown_workspace,
)
from cmek.tags import CMEK_TAG, LOOK_AGAIN_TAG
from tasks._task_options import uncached_task
from tasks.announcements import announce, send_event
from tasks.artifacts import (
    artifact_url,
    last_records,
    latest_artifact,
    page_key,
    publish_page,
    publish_table,
    update_data,
)
from tasks.clients import admin_client, google_client, kms_client, once
from tasks.runs import current_run_id

T = TypeVar("T")
OVERVIEW = "cmek-fleet-overview"
ENDED = "cmek.revalidation.ended"
"""The event at the end of each check of all keys; without it, keys are not being watched."""
WRITERS: Final = 4
"""Records published at once: a server has 15 connections to its database, for all clients."""
KEPT: Final = timedelta(hours=1)
"""How long a retried run reuses the checks of its earlier attempts."""
_READ_ALONE: Final = frozenset({"PERMISSION_DENIED", "NOT_FOUND"})
"""Refused lists of a ring that say nothing about a single key; a ring can be deleted."""
_EVER: Final = datetime.min.replace(tzinfo=UTC)
HOLD_SECONDS: Final = 15.0
"""Pause of a location whose quota is used up, after the client's own tries."""


class SharedReads:
    """Reads that several keys share; each is made once."""

    def __init__(self) -> None:
        self._shared: dict[str, asyncio.Future[Any]] = {}

    async def once(self, what: str, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Read it for the first key that needs it, and give the result to the others."""
        return await once(self._shared, what, read)

    def forget(self) -> None:
        """Drop what was read, and stop what is being read."""
        for reading in self._shared.values():
            reading.cancel()
        self._shared.clear()


class KeyRingBatch(SharedReads):
    """The keys to check in one ring, and the reads that they share."""

    def __init__(self, refs: list[KeyRef]) -> None:
        super().__init__()
        self.refs = refs
        self._left = len(refs)

    def done_with_one(self) -> None:
        """Count a checked key; after the last one, drop the shared reads."""
        self._left -= 1
        if self._left <= 0:
            self.forget()


@dataclass
class RevalidationContext:
    """One revalidation."""

    request: RevalidationRequest
    organization_id: UUID
    run_id: str
    deadline: datetime
    rings: list[KeyRingBatch]
    projects: SharedReads = field(default_factory=SharedReads)
    reported: datetime | None = None
    """When this run had finished with all keys; a retry after that checks them again."""
    unrecorded: list[str] = field(default_factory=list)
    """External keys whose histories lack this check: Prefect did not accept the record."""
    rate_limiter: RateLimiter = field(init=False)
    reading: asyncio.Semaphore = field(init=False)
    """Bounds the keys that are read at once."""
    writing: asyncio.Semaphore = field(init=False)
    """Bounds the records that are published at once."""
    rechecks: dict[str, UnreachableState] = field(init=False)
    """In a follow-up: the state of each key that could not be reached, by external key."""

    def __post_init__(self) -> None:
        self.rate_limiter = RateLimiter(self.request.reads_per_minute)
        self.reading = asyncio.Semaphore(self.request.concurrency)
        self.writing = asyncio.Semaphore(WRITERS)
        self.rechecks = {one.external_key_id: one for one in self.request.look_again}

    async def limited(self, location: str, read: Callable[[], Awaitable[T]]) -> Result[T]:
        """One read of Cloud KMS within the location's rate limit."""
        await self.rate_limiter.acquire(location)
        result = await try_read(read())
        if isinstance(result, Failed) and result.status == "RESOURCE_EXHAUSTED":
            self.rate_limiter.pause(location, HOLD_SECONDS)
        return result

    async def policy(self, ref: KeyRef, resource: str) -> Result[PolicyView]:
        """The IAM policy of the key or of its ring."""
        kms = await kms_client(self.request.kms_block)

        async def read() -> PolicyView:
            return PolicyView.of(await kms.get_iam_policy(resource))

        return await self.limited(ref.location, read)

    async def versions(self, ref: KeyRef) -> Result[tuple[KeyVersion, ...]] | None:
        """All versions of the key; a quick check leaves them out."""
        if self.request.depth == "quick":
            return None
        kms = await kms_client(self.request.kms_block)

        async def read() -> tuple[KeyVersion, ...]:
            return tuple(await kms.list_crypto_key_versions(ref.key_name))

        return await self.limited(ref.location, read)

    async def project_policy(self, ref: KeyRef) -> Result[PolicyView]:
        """The project's IAM policy, read once."""
        # Resource Manager has a quota of its own, so `limited` is not for it
        google = await google_client(self.request.kms_block)
        project = ref.location.partition("/locations/")[0]

        async def read() -> PolicyView:
            return PolicyView.of(await google.iam_policy(project))

        return await self.projects.once(project, lambda: try_read(read()))

    async def crypto_key(self, ring: KeyRingBatch, ref: KeyRef) -> Result[CryptoKey | None]:
        """The key; from one list of its ring if this run checks several keys of the ring."""
        kms = await kms_client(self.request.kms_block)
        if len(ring.refs) > 1:
            listed = await ring.once("keys", lambda: self._listed(ring))
            if isinstance(listed, Ok) and ref.key_name in listed.value:
                return Ok(listed.value[ref.key_name])
            if isinstance(listed, Failed) and listed.status not in _READ_ALONE:
                return listed
        # alone, not in the list, or there is no list: read the key itself
        return await self.limited(ref.location, lambda: kms.get_crypto_key(ref.key_name))

    async def _listed(self, ring: KeyRingBatch) -> Result[dict[str, CryptoKey]]:
        kms = await kms_client(self.request.kms_block)
        wanted = {ref.key_name for ref in ring.refs}
        first = ring.refs[0]

        async def read() -> dict[str, CryptoKey]:
            found: dict[str, CryptoKey] = {}
            async for key in kms.list_crypto_keys(first.key_ring):
                if key.name in wanted:
                    found[key.name] = key
                if len(found) == len(wanted):  # further pages would cost quota for nothing
                    break
            return found

        return await self.limited(first.location, read)

    async def previous(self, ring: KeyRingBatch, ref: KeyRef) -> KeyRecord | None:
        """The key's last record; one request serves a ring."""
        ids = [one.external_key_id for one in ring.refs]
        records = await ring.once("records", lambda: last_records(ids))
        return records.get(ref.external_key_id)

    def has_checked(self, record: KeyRecord) -> bool:
        """Whether an earlier attempt of this run made this record, and it can be reused."""
        done = all(reason.rule != UNFINISHED for reason in record.reasons)
        since = max(self.reported or _EVER, datetime.now(UTC) - KEPT)
        return done and record.run_id == self.run_id and record.checked_at > since

    @cached_property
    def schedules_follow_up(self) -> bool:
        """Whether this can schedule another run; a live check is no run of a deployment.

        Read once: without a deployment Prefect asks its server each time.
        """
        return deployment.id is not None

    def check_run(self, ref: KeyRef, now: datetime) -> CheckRun:
        """What the rules must know about this check."""
        recheck_of = self.rechecks.get(ref.external_key_id)
        return CheckRun(
            run_id=self.run_id,
            now=now,
            recheck_of=recheck_of,
            schedules_follow_up=self.schedules_follow_up,
        )

    def empty_snapshot(self, ref: KeyRef, previous: KeyRecord | None, now: datetime) -> KeySnapshot:
        """The snapshot of a key before anything has been read."""
        return KeySnapshot(
            external_key_id=ref.external_key_id,
            registered_name=ref.key_name,
            registered_at=ref.registered_at,
            workspaces=ref.workspaces,
            organization_id=self.organization_id,
            now=now,
            depth=self.request.depth,
            validation=None,
            key=None,
            baseline=previous.baseline if previous else None,
            # from the follow-up's parameters if the key's own history was lost
            unreachable=previous.unreachable
            if previous
            else self.rechecks.get(ref.external_key_id),
        )

    def forget(self) -> None:
        """Stop and drop everything that is shared."""
        for shared in (self.projects, *self.rings):
            shared.forget()


class CheckUnfinishedError(CmekError):
    """The deadline came before the check was done."""


class NoWorkspaceKeyError(CmekError, LookupError):
    """No Google Cloud key is registered for the workspace, so there is nothing to check."""


async def check_now(anthropic_block: str, kms_block: str, workspace_id: str) -> KeyRecord:
    """The health of a workspace's key by live reads, without a run and without leaving a record.

    It is compared with the key's last record, as a run would.

    Raises:
        NoWorkspaceKeyError: The workspace has no Google Cloud key.
        AdminApiError: The external keys can't be listed.
    """
    registered = await read_all_registered(anthropic_block)
    ref = next((one for one in registered.refs if one.serves(workspace_id)), None)
    if ref is None:
        raise NoWorkspaceKeyError(
            f"no workspace {workspace_id} with a Google Cloud key: check the id, or onboard it"
        )
    now = datetime.now(UTC)
    ring = KeyRingBatch([ref])
    context = RevalidationContext(
        request=RevalidationRequest(anthropic_block=anthropic_block, kms_block=kms_block),
        organization_id=registered.organization_id,
        run_id="live",
        deadline=now + timedelta(minutes=1),
        rings=[ring],
    )
    previous = await context.previous(ring, ref)
    try:
        snapshot = await _read(context, ring, ref, previous)
    finally:
        context.forget()
    return judge(snapshot, previous, context.check_run(ref, snapshot.now))


@uncached_task(name="Read registered keys")
async def read_registered_keys(block: str) -> RegisteredKeys:
    """As `read_all_registered`."""
    return await read_all_registered(block)


async def read_all_registered(block: str) -> RegisteredKeys:
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
    return RegisteredKeys(
        organization_id=organization.id, refs=tuple(ref for ref in refs if ref is not None)
    )


async def check_key(context: RevalidationContext, ring: KeyRingBatch, ref: KeyRef) -> KeyRecord:
    """Read the key, judge it by pure rules, and add what is new to the key's history.

    A retried run reuses what its earlier attempts found within the last hour.

    Raises:
        CheckUnfinishedError: The deadline came first.
    """
    try:
        async with asyncio.timeout((context.deadline - datetime.now(UTC)).total_seconds()):
            previous = await context.previous(ring, ref)
            if previous is not None and context.has_checked(previous):
                return previous
            async with context.reading:
                snapshot = await _read(context, ring, ref, previous)
    except TimeoutError:
        raise CheckUnfinishedError(
            f"{ref.external_key_id}: not done by {context.deadline}"
        ) from None
    baseline, key = snapshot.baseline, snapshot.crypto_key
    if context.request.record_anew and baseline is not None and key is not None:
        snapshot = replace(snapshot, baseline=baseline.renewed(key, snapshot.now))
    # outside the timeout: what was read is also judged and recorded
    record = judge(snapshot, previous, context.check_run(ref, snapshot.now))
    if record.unreachable and not context.schedules_follow_up:
        get_run_logger().warning(
            "%s could not be reached, and no run checks it again: without a deployment this run "
            "can't schedule another",
            ref.external_key_id,
        )
    if ref.unused:
        # nobody is told; what is still so once a workspace has the key is news then
        record = record.model_copy(
            update={
                "announced": record.announced_before,
                "announced_at": record.announced_before_at,
                "announced_reasons": record.announced_reasons_before,
            }
        )
    else:
        record = await announce(record, previous)
    if context.request.depth == "full" or is_news(record, previous):
        await _keep(context, record)
    return record


async def _keep(context: RevalidationContext, record: KeyRecord) -> None:
    """Add the record to the key's history; if that fails, this run still reports the verdict."""
    try:
        async with context.writing:
            await publish_page(record)
    except Exception:  # noqa: BLE001 - whatever it is, the run ends as failed and the rest goes on
        get_run_logger().exception("%s: not added to its history", record.external_key_id)
        context.unrecorded.append(record.external_key_id)
    if record.verdict is not Health.HEALTHY:
        get_run_logger().info("%s: %s", record.key_name, SIGNS[record.verdict])


async def record_unfinished_check(
    context: RevalidationContext, ring: KeyRingBatch, ref: KeyRef, why: str
) -> KeyRecord:
    """The record of a key that could not be checked.

    It is not added to a history that can't be read: it would have no baseline, and the next check
    would take it for the last record.
    """
    known, previous = True, None
    try:
        previous = await context.previous(ring, ref)
    except Exception:  # noqa: BLE001 - one key's history never ends the others' checks
        get_run_logger().exception("%s: its history can't be read", ref.external_key_id)
        known = False
    now = datetime.now(UTC)
    snapshot = context.empty_snapshot(ref, previous, now)
    record = unfinished(snapshot, previous, context.check_run(ref, now), why)
    if known:
        await _keep(context, record)
    else:
        context.unrecorded.append(ref.external_key_id)
    return record


async def _read(
    context: RevalidationContext, ring: KeyRingBatch, ref: KeyRef, previous: KeyRecord | None
) -> KeySnapshot:
    if context.request.depth == "quick":
        return await _read_quickly(context, ring, ref, previous)
    # before the task group: a missing block raises its own error, not an ExceptionGroup
    await admin_client(context.request.anthropic_block)
    await kms_client(context.request.kms_block)
    await google_client(context.request.kms_block)
    # Anthropic's validation takes the longest, so the rest is read at the same time
    async with asyncio.TaskGroup() as group:
        validation = group.create_task(_validation(context.request.anthropic_block, ref))
        parts = group.create_task(_kms_parts(context, ring, ref))
    snapshot = context.empty_snapshot(ref, previous, datetime.now(UTC))
    return replace(snapshot, validation=validation.result(), **parts.result())


async def _read_quickly(
    context: RevalidationContext, ring: KeyRingBatch, ref: KeyRef, previous: KeyRecord | None
) -> KeySnapshot:
    """Read Cloud KMS first: Anthropic validates only if something has changed there."""
    parts = await _kms_parts(context, ring, ref)
    snapshot = replace(context.empty_snapshot(ref, previous, datetime.now(UTC)), **parts)
    if not needs_validation(snapshot, previous):
        return snapshot
    validation = await _validation(context.request.anthropic_block, ref)
    return replace(snapshot, validation=validation, now=datetime.now(UTC))


async def _kms_parts(
    context: RevalidationContext, ring: KeyRingBatch, ref: KeyRef
) -> dict[str, Any]:
    if "/cryptoKeys/" not in ref.key_name:  # there is nothing to read; a rule reports the name
        return {}
    key = await context.crypto_key(ring, ref)
    if not (isinstance(key, Ok) and key.value is not None):
        return {"key": key}
    all_versions, policy, ring_policy, project_policy = await asyncio.gather(
        context.versions(ref),
        context.policy(ref, ref.key_name),
        ring.once("policy", lambda: context.policy(ref, ref.key_ring)),
        context.project_policy(ref),
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
    # the client's own limit: a validation may take longer than a read
    return await try_read(api.external_keys.validate(ref.external_key_id), seconds=None)


async def last_fleet() -> dict[str, FleetRow]:
    """The rows of the last table, by external key."""
    return _rows(await latest_artifact(FLEET))


def _rows(table: ArtifactCollection | None) -> dict[str, FleetRow]:
    return read_rows(table.data if table else None, get_run_logger().warning)


@uncached_task(name="Publish fleet")
async def publish_fleet(
    checked: Sequence[FleetRow],
    *,
    all_keys: bool,
    depth: str,
    anew: bool = True,
    dropped: frozenset[str] = frozenset(),
) -> None:
    """One table for all keys, worst first, and the overview of those in trouble.

    The last table is read again here, so that a check of some keys that ended meanwhile is kept.

    Args:
        checked: The rows of this run.
        all_keys: Whether a key without a row is no longer registered.
        depth: Depth of the check, `full` or `quick`; an automation notifies people when no full
            check ends.
        anew: Whether there is news; otherwise the last table is updated in place, so that frequent
            checks do not leave one table each.
        dropped: External keys whose rows are left out.
    """
    latest = await latest_artifact(FLEET)
    latest_id = latest.latest_id if latest else None
    before = {key: row for key, row in _rows(latest).items() if key not in dropped}
    rows = merged(before, checked, all_keys=all_keys, now=datetime.now(UTC))
    del latest  # frees its memory: it is as large as the new table
    found = counts(rows)
    summary = ", ".join(f"{count} {verdict.replace('_', ' ')}" for verdict, count in found.items())
    table = published(rows)
    if anew or latest_id is None or not await update_data(latest_id, table):
        await publish_table(FLEET, table, summary)
        today = datetime.now(UTC).date()
        page = overview(rows, today, lambda key: artifact_url(page_key(key)))
        await acreate_markdown_artifact(markdown=page, key=OVERVIEW, description=summary)
    if all_keys:
        payload = {str(verdict): count for verdict, count in found.items()}
        resource = {"prefect.resource.id": "cmek.fleet", "cmek.depth": depth}
        await send_event(ENDED, resource=resource, payload=payload)


@uncached_task(name="Schedule follow-up")
async def schedule_follow_up(
    request: RevalidationRequest, unreachable: Sequence[UnreachableState]
) -> None:
    """Schedule one run that checks the unreachable keys again, when the first of them is due.

    The idempotency key prevents a second one when this run is retried, unless the first has ended.
    """
    times = [one.next_check for one in unreachable if one.next_check is not None]
    if not times:
        return
    soonest = datetime.now(UTC) + timedelta(seconds=1)
    due = max(min(times), soonest)
    # never recorded anew: nobody has seen yet what that run will find
    changes = {"external_keys": (), "look_again": tuple(unreachable), "record_anew": False}
    again = request.model_copy(update=changes)
    this_run = str(current_run_id())
    run = await _follow_up(again, due, this_run)
    if run.state is not None and run.state.is_final():
        run = await _follow_up(again, due, f"{this_run}-{due.isoformat()}")
    get_run_logger().info("%d keys are checked again by %s", len(unreachable), run.name)


async def _follow_up(request: RevalidationRequest, due: datetime, which: str) -> FlowRun:
    """The follow-up with this idempotency key, which is created if there is none."""
    async with get_client() as client:
        return await client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"request": request.model_dump(mode="json")},
            state=Scheduled(scheduled_time=due),
            idempotency_key=f"cmek-look-again-{which}",
            tags=[CMEK_TAG, LOOK_AGAIN_TAG],
        )
