"""The flow run that is executing, other runs by filter, and the state that a run keeps.

A run's state is what it must remember across suspensions. It is kept in records of our own
(`cmek.records`): nothing that Prefect stores is read back.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from enum import StrEnum
from functools import cache
from types import TracebackType
from typing import Final, TypeVar
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.concurrency.asyncio import (
    AcquireConcurrencySlotTimeoutError,
    ConcurrencySlotAcquisitionError,
    concurrency,
)
from prefect.events.filters import EventFilter, EventNameFilter, EventOrder, EventResourceFilter
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run
from pydantic import BaseModel, JsonValue, ValidationError

from cmek.errors import CmekError
from cmek.onboarding.request import OnboardingForm, OnboardingRequest
from cmek.records import Records, records_of

ONBOARDING: Final = "onboard-workspace/onboard"
"""The onboarding's deployment."""
HEARTBEAT: Final = "prefect.flow-run.heartbeat"
_POLL_SECONDS: Final = 2.0
LEASE_SECONDS: Final = 60.0
"""Lease of a slot: how long a killed run keeps it and makes the others wait."""
TRY_SECONDS: Final = 20.0
"""How often a run that waits for a slot checks whether another run exists that may hold it."""
PAGE: Final = 200
"""The most that Prefect's API lists at once."""
_PINNED: Final = "request"
M = TypeVar("M", bound=BaseModel)


class PinnedRequestLostError(CmekError):
    """The record of the request is gone; nothing was attached."""


def current_run_id() -> UUID:
    """The id of the flow run that is executing.

    Raises:
        RuntimeError: Outside a flow run.
    """
    known: str | None = flow_run.id
    if known is None:
        raise RuntimeError("outside a flow run")
    return UUID(known)


@contextmanager
def never_ends_the_run(consequence: str) -> Iterator[None]:
    """Log a failure instead of raising it, where it must not change the run's outcome.

    Args:
        consequence: What the failure means, for the log.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not hide the run's outcome
        get_run_logger().warning("%s: %r", consequence, error)


async def retag(client: PrefectClient, *tags: str, without: str | None = None) -> None:
    """Add tags to this run and remove those that start with `without`; write only a change."""
    run = await client.read_flow_run(current_run_id())
    kept = {tag for tag in run.tags if without is None or not tag.startswith(without)}
    wanted = kept.union(tags)
    if wanted != set(run.tags):
        await client.update_flow_run(run.id, tags=sorted(wanted))


async def find_runs(
    client: PrefectClient, wanted: FlowRunFilter, *, of: FlowFilter | None = None
) -> AsyncIterator[FlowRun]:
    """The runs that fit a filter, of all flows or of those that fit one, over all pages."""
    offset = 0
    while page := await client.read_flow_runs(
        flow_filter=of, flow_run_filter=wanted, limit=PAGE, offset=offset
    ):
        offset += len(page)
        for run in page:
            yield run


class SlotRefusedError(CmekError):
    """The Prefect server gives no slot of a concurrency limit."""


@contextmanager
def _slot_refusals(limit: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ConcurrencySlotAcquisitionError) as error:
        raise SlotRefusedError(
            f"the Prefect server gives no slot of the concurrency limit {limit!r} ({error}). "
            "What needs one was not done: Retry when the server answers"
        ) from error


async def ensure_single_slot(client: PrefectClient, limit: str) -> None:
    """Make sure that the global concurrency limit exists, with one slot.

    Raises:
        SlotRefusedError: The server does not accept it.
    """
    # Prefect's upsert reads, then creates: another run may create it between the two
    with suppress(ObjectAlreadyExists), _slot_refusals(limit):
        await client.upsert_global_concurrency_limit_by_name(limit, 1)


async def take_slot(
    held: AsyncExitStack,
    limit: str,
    *,
    timeout_seconds: float,
    ends_when_lost: bool,
) -> bool:
    """Take the slot of a global concurrency limit; False when it was not free in time.

    Args:
        held: Gives the slot back at its end. If that fails, the run ends as it would have ended,
            since the lease expires.
        limit: The limit's name; it must exist.
        timeout_seconds: How long to wait for the slot.
        ends_when_lost: Whether the run is cancelled when the server lets the lease end.

    Raises:
        SlotRefusedError: The server gives none.
    """
    slot = concurrency(
        limit,
        strict=True,  # else a limit that is missing would let every run pass
        lease_duration=LEASE_SECONDS,
        timeout_seconds=timeout_seconds,
        raise_on_lease_renewal_failure=ends_when_lost,
    )
    try:
        with _slot_refusals(limit):
            await slot.__aenter__()
    except AcquireConcurrencySlotTimeoutError:
        return False

    async def give_back(
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        with never_ends_the_run(
            f"The slot of the concurrency limit {limit} was not given back, so it is free in "
            f"{LEASE_SECONDS:.0f} s"
        ):
            return await slot.__aexit__(kind, failure, trace)
        return False

    held.push_async_exit(give_back)
    return True


async def save_state(name: str, value: BaseModel) -> None:
    """Store `value` under this run and `name`; if that fails, the earlier value stays."""
    run_id, data = str(current_run_id()), value.model_dump(mode="json")
    await asyncio.to_thread(_records().write, run_id, name, data)


async def load_state(name: str, kind: type[M], *, run: UUID | None = None) -> M | None:
    """The value stored under `name`; None if there is none, or one that does not fit `kind`.

    Args:
        name: As for `save_state`.
        kind: What it must be.
        run: The run that has stored it; this one unless given.

    Raises:
        RecordTamperedError: Somebody else has written it.
        RecordsError: It can't be read.
    """
    found = await asyncio.to_thread(_records().read, str(run or current_run_id()), name)
    try:
        return None if found is None else kind.model_validate(found)
    except ValidationError:  # from another release, since the MAC has been verified
        return None


_MADE_KEYS: Final = "made-keys"
"""In place of a run's id, for records that all runs share."""


class KeyCreate(StrEnum):
    """State of an onboarding's request to create a crypto key, in the worker's records."""

    SENT = "sent"
    """No answer is known: the key may be ours, or somebody else may have created it first."""
    CONFIRMED = "confirmed"
    """Cloud KMS answered that it made the key."""
    REFUSED = "refused"


async def remember_create(key_name: str, outcome: KeyCreate) -> None:
    """Store the state of the create of this crypto key, for all runs that share the records."""
    kept: JsonValue = {"key_name": key_name, "create": outcome, "run_id": str(current_run_id())}
    name = _name_for(key_name, confirmed=outcome is KeyCreate.CONFIRMED)
    await asyncio.to_thread(_records().write, _MADE_KEYS, name, kept)


async def remembered_create(key_name: str) -> KeyCreate | None:
    """The state of the create of this crypto key; None if no onboarding sent one.

    Raises:
        RecordTamperedError: Somebody else has written a record of it.
    """
    if await _create_record(key_name, confirmed=True) is not None:
        return KeyCreate.CONFIRMED
    found = await _create_record(key_name, confirmed=False)
    return None if found is None else KeyCreate(str(found["create"]))


async def created_by_this_run(key_name: str) -> bool:
    """Whether Cloud KMS has confirmed a create of this crypto key to this run.

    Raises:
        RecordTamperedError: Somebody else has written the record.
    """
    found = await _create_record(key_name, confirmed=True)
    return found is not None and found["run_id"] == str(current_run_id())


async def _create_record(key_name: str, *, confirmed: bool) -> dict[str, JsonValue] | None:
    name = _name_for(key_name, confirmed=confirmed)
    found = await asyncio.to_thread(_records().read, _MADE_KEYS, name)
    return found if isinstance(found, dict) and found.get("key_name") == key_name else None


def _name_for(key_name: str, *, confirmed: bool) -> str:
    # apart: a run that sends a create for the same key must not replace the proof that it is ours
    return hashlib.sha256(key_name.encode()).hexdigest() + ("-confirmed" if confirmed else "")


async def copy_evidence(folder: str, text: str) -> str:
    """Copy this run's evidence beside the records, for auditors; the path of the copy."""
    return await asyncio.to_thread(_records().copy_evidence, folder, str(current_run_id()), text)


@cache
def _records() -> Records:
    return records_of(os.environ)


async def pin_request(
    form: OnboardingForm,
    resolve: Callable[[OnboardingForm], Awaitable[OnboardingRequest]],
    *,
    asked: bool,
) -> OnboardingRequest:
    """The request as this run first saw it; later changes of parameters or policy are ignored.

    Args:
        form: The run's parameter.
        resolve: Applies the policy; called when nothing is pinned yet.
        asked: Whether this attempt has requested an approval, so that there must be a record.

    Raises:
        RecordTamperedError: Somebody else has written the record.
        PinnedRequestLostError: The record is gone, and the attempt has requested an approval.
    """
    pinned = await load_state(_PINNED, OnboardingRequest)
    if pinned is not None:
        return pinned
    # pinned again now, it could be what somebody changed while the run waited
    if asked:
        raise PinnedRequestLostError(
            "the record of this run's request is gone, or of another release, so its parameters "
            "can't be compared with what they were; nothing was attached. Retry the run for a "
            "new approval request"
        )
    request = await resolve(form)
    await save_state(_PINNED, request)
    return request


async def wait_for_heartbeat(client: PrefectClient, run_id: UUID, seconds: float) -> str | None:
    """Watch a run; why it is to be left alone, or None when it gave no sign of life.

    Nothing else watches the run, so a server that is away for some time must not end this: the
    watch begins anew, since heartbeats may have been lost meanwhile.

    Args:
        client: Client of the Prefect server.
        run_id: The run to watch.
        seconds: For how long; at least two heartbeats.
    """
    deadline = time.monotonic() + seconds
    first: tuple[UUID | None, UUID | None] | None = None
    while True:
        try:
            run = await client.read_flow_run(run_id)
            if run.state is None or not (run.state.is_running() or run.state.is_pending()):
                return f"it is {run.state_name or 'without a state'}"
            # a new state or a new heartbeat is a sign of life
            sign = (run.state_id, await _last_heartbeat(client, run_id))
        except ObjectNotFound:
            return "it was deleted"
        except httpx.HTTPError as error:
            get_run_logger().warning("The watch begins anew: %r", error)
            deadline, first = time.monotonic() + seconds, None
            await asyncio.sleep(_POLL_SECONDS)
            continue
        first = first or sign
        if sign != first:
            return "it gave a sign of life"
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))


async def _last_heartbeat(client: PrefectClient, run_id: UUID) -> UUID | None:
    wanted = EventFilter(
        event=EventNameFilter(name=[HEARTBEAT]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run_id}"]),
        order=EventOrder.DESC,
    )
    page = await client.read_events(wanted, limit=1)
    return page.events[0].id if page.events else None
