"""Revalidate every onboarded key: on a schedule, or at once from the UI or after a signal.

Many keys are checked at the same time. A verdict is published as soon as it is known, so that a
killed run loses nothing, and a retry continues where it stopped. Of two runs that check all keys
one waits for the other: together they would exceed the rate limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import BaseModel

from cmek.errors import listed
from cmek.keys.verdicts import Health, KeyRecord, UnreachableState
from cmek.outcomes import RunOutcome
from cmek.revalidation.fleet import FleetRow, counts, shown_counts
from cmek.revalidation.request import KeyRef, RegisteredKeys, RevalidationRequest, by_ring
from flows._late_runs import skipped_as_late
from flows._outcome import reporting
from flows._revalidation_lock import wait_for_turn
from tasks.clients import close_clients, open_clients, opening_clients
from tasks.leftovers import publish_leftovers
from tasks.revalidation import (
    CheckUnfinishedError,
    KeyRingBatch,
    RevalidationContext,
    check_key,
    last_fleet,
    publish_fleet,
    read_registered_keys,
    record_unfinished_check,
    schedule_follow_up,
)
from tasks.runs import current_run_id, load_state, never_ends_the_run, save_state

T = TypeVar("T")
PROGRESS = "cmek-revalidation-progress"
PROGRESS_SECONDS = 1.0
_REPORTED = "reported"


class Reported(BaseModel):
    """When this run had finished with all keys; a retry after that checks them again."""

    at: datetime


@dataclass
class Tally:
    """Results of the checks in memory: one table row per key, not the whole record."""

    before: dict[str, FleetRow]
    rows: list[FleetRow] = field(default_factory=list)
    unreachable: list[UnreachableState] = field(default_factory=list)
    missing: list[FleetRow] = field(default_factory=list)
    """Rows of attached keys that are no longer registered."""
    not_found: list[str] = field(default_factory=list)
    """External keys of the request that are neither registered nor in the table as attached."""
    unused: list[FleetRow] = field(default_factory=list)
    """Rows of keys that no workspace has; they decide nothing about how the run ends."""
    changed: bool = False
    unrecorded: list[str] = field(default_factory=list)
    """External keys whose histories lack this check."""

    def add(self, record: KeyRecord, *, unused: bool) -> None:
        """Add the result of one check; `unused`: no workspace has the key."""
        before = self.before.pop(record.external_key_id, None)
        row = FleetRow.of(record, before)
        (self.unused if unused else self.rows).append(row)
        self.changed |= before is None or _differs(before, row)
        if record.unreachable and record.unreachable.scheduled_by == record.run_id:
            self.unreachable.append(record.unreachable)

    def add_missing(self, request: RevalidationRequest) -> frozenset[str]:
        """Add a row for each attached key that was to be checked and is no longer registered.

        An attached key can't be unregistered, so the credential may be another organization's.

        Returns:
            The keys to drop from the table: those that the request names with `record_anew`.
        """
        gone = {
            key: row
            for key, row in self.before.items()
            if row.workspaces and (request.wanted is None or key in request.wanted)
        }
        checked = {row.external_key_id for row in (*self.rows, *self.unused)}
        self.not_found = sorted(set(request.external_keys).difference(checked, gone))
        if gone and request.record_anew and request.wanted:
            self.changed = True
            return frozenset(gone)
        for before in gone.values():
            row = before.not_registered(datetime.now(UTC))
            self.missing.append(row)
            self.changed |= _differs(before, row)
        return frozenset()


def _differs(before: FleetRow, row: FleetRow) -> bool:
    return (before.verdict, before.why) != (row.verdict, row.why)


@flow(
    name="revalidate-keys",
    flow_run_name="revalidate {request.depth}",
    persist_result=False,
    retries=0,
)
async def revalidate_keys(
    request: RevalidationRequest = RevalidationRequest(),  # noqa: B008 - frozen
) -> State[Any]:
    """Revalidate the onboarded keys.

    Ends as failed when a key is broken, as "At risk" when one is at risk, as "Unknown" when one
    could not be checked, else as completed. The table `cmek-fleet` shows all keys, worst first.

    Args:
        request: Which keys, how deep, and until when.

    Raises:
        AdminApiError: The external keys can't be listed.
        BlockMissingError: A block can't be used; nothing was checked or recorded.
        ReportUnfinishedError: A part of the report failed; the message has what was found.
    """
    async with AsyncExitStack() as held:
        held.push_async_callback(close_clients)
        if request.covers_all_keys:
            if (skipped := await skipped_as_late()) is not None:
                return skipped
            opening = opening_clients(request.anthropic_block, request.kms_block)
            await held.enter_async_context(opening)
            other = await wait_for_turn(held, request.deadline_seconds)
            if other is not None:
                return Completed(
                    name=RunOutcome.SKIPPED,
                    message=f"{other.name} ({other.id}) was checking all keys until this run's "
                    "deadline",
                )
        return await _revalidate(request, held)


async def _revalidate(request: RevalidationRequest, held: AsyncExitStack) -> State[Any]:
    tally = await _check_registered(request, held)
    dropped = tally.add_missing(request)
    ended, all_keys = _outcome(tally), request.covers_all_keys
    async with reporting(str(ended.message), "Retry this run") as report:
        # separate from the table: if that can't be published, keys must still be checked again
        parts = [report.part("follow-up", schedule_follow_up(request, tally.unreachable))]
        if all_keys or tally.changed:
            anew = tally.changed or request.depth == "full"
            rows = [*tally.rows, *tally.unused, *tally.missing]
            fleet = publish_fleet(
                rows, all_keys=all_keys, depth=request.depth, anew=anew, dropped=dropped
            )
            parts.append(report.part("table of all keys", fleet))
        if all_keys and request.depth == "full":
            parts.append(publish_leftovers(request.anthropic_block, request.kms_block))
        await asyncio.gather(*parts)
        if not (tally.unrecorded or report.failed):  # otherwise a retry must reuse the records
            await save_state(_REPORTED, Reported(at=datetime.now(UTC)))
    return ended


async def _check_registered(request: RevalidationRequest, held: AsyncExitStack) -> Tally:
    """Check the keys; reads that they share are dropped from memory at the end."""
    started = datetime.now(UTC)
    registered, reported, before, _ = await asyncio.gather(
        read_registered_keys(request.anthropic_block),
        load_state(_REPORTED, Reported),
        last_fleet(),
        # fails here when a block can't be used, which is no verdict about any key
        open_clients(request.anthropic_block, request.kms_block),
    )
    context = _context(request, registered, reported, started)
    tally = Tally(before, unrecorded=context.unrecorded)
    total = sum(len(ring.refs) for ring in context.rings)
    checked = await held.enter_async_context(_progress(tally, total))
    try:
        await _check_all(context, tally, total)
    finally:
        context.forget()
        checked.set()
    return tally


def _context(
    request: RevalidationRequest,
    registered: RegisteredKeys,
    reported: Reported | None,
    started: datetime,
) -> RevalidationContext:
    wanted = request.wanted
    keys = [k for k in registered.refs if wanted is None or k.external_key_id in wanted]
    return RevalidationContext(
        request=request,
        organization_id=registered.organization_id,
        run_id=str(current_run_id()),
        deadline=started + timedelta(seconds=request.deadline_seconds),
        rings=[KeyRingBatch(refs) for refs in by_ring(keys, str(current_run_id()))],
        reported=reported.at if reported else None,
    )


async def _check_all(context: RevalidationContext, tally: Tally, total: int) -> None:
    """A bounded number of checks at the same time, ring by ring."""
    # one iterator for all workers: a ring's keys follow each other, so its reads are dropped soon
    remaining = ((ring, ref) for ring in context.rings for ref in ring.refs)

    async def work() -> None:
        for ring, ref in remaining:
            tally.add(await _check_one(context, ring, ref), unused=ref.unused)
            ring.done_with_one()

    async with asyncio.TaskGroup() as group:
        # twice as many, as `context.reading` bounds the reads: the rest prepare or publish
        for _ in range(min(2 * context.request.concurrency, total)):
            group.create_task(work())


async def _check_one(context: RevalidationContext, ring: KeyRingBatch, ref: KeyRef) -> KeyRecord:
    """The record of one key, even if its check fails or is too late."""
    why = f"not checked before the deadline, {context.deadline:%Y-%m-%d %H:%M:%S %Z}"
    if datetime.now(UTC) < context.deadline:
        try:
            return await check_key(context, ring, ref)
        except CheckUnfinishedError:
            pass
        except Exception as error:  # noqa: BLE001 - one key's failure never ends the others' checks
            get_run_logger().exception("%s: the check failed", ref.external_key_id)
            why = f"the check failed: {error!r}; the run's log has the details"
    return await record_unfinished_check(context, ring, ref, why)


@asynccontextmanager
async def _progress(tally: Tally, total: int) -> AsyncIterator[asyncio.Event]:
    """Keep a progress artifact up to date: once a second, and when all keys are checked.

    Only the end of the run waits for it, and its failures do not end the run.

    Yields:
        An event that the caller sets when all keys are checked.
    """
    checked = asyncio.Event()

    async def shown(request: Coroutine[Any, Any, T]) -> T | None:
        with never_ends_the_run("The progress is not shown"):
            return await request
        return None

    async def keep_showing() -> None:
        new = acreate_progress_artifact(0.0, key=PROGRESS, description=f"{total} keys")
        progress, is_last = await shown(new), False
        while progress is not None and not is_last:
            with suppress(TimeoutError):
                await asyncio.wait_for(checked.wait(), PROGRESS_SECONDS)
            done, is_last = len(tally.rows) + len(tally.unused), checked.is_set()
            percent = 100.0 * done / total if total else 100.0
            await shown(aupdate_progress_artifact(progress, percent, f"{done} of {total} keys"))

    showing = asyncio.ensure_future(keep_showing())
    try:
        yield checked
    finally:
        checked.set()
        await showing


def _outcome(tally: Tally) -> State[Any]:
    """The final state: Failed (red) for a broken key; Prefect has no yellow, so names show it."""
    rows = [*tally.rows, *tally.missing]
    found = counts(rows)
    message = f"{len(rows)} keys: {shown_counts(found)}. See the artifact cmek-fleet"
    if tally.unused:
        message += f". {len(tally.unused)} more that no workspace has"
    if tally.missing:
        names = listed(row.external_key_id for row in tally.missing)
        message += f". Not registered any more, though a workspace had them: {names}"
    if tally.not_found:
        message += (
            f". Not registered as Google Cloud keys of this organization, so check the ids: "
            f"{listed(tally.not_found)}"
        )
    if tally.unrecorded:
        return Failed(
            message=f"{message}. Not in the history of {len(tally.unrecorded)} keys, for which the "
            f"log has the reason: {listed(tally.unrecorded)}. Retry this run to check them again"
        )
    if found[Health.BROKEN] or (tally.not_found and not (rows or tally.unused)):
        return Failed(message=message)
    if found[Health.UNKNOWN] or tally.not_found:
        return Completed(name=RunOutcome.KEY_UNKNOWN, message=message)
    if found[Health.AT_RISK]:
        return Completed(name=RunOutcome.KEY_AT_RISK, message=message)
    return Completed(message=message)
