"""What the looks of one revalidation share: pace, lists of rings, ring policies, last records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from cmek._http import Failed, Ok, Result, try_read
from cmek.gcp.iam import PolicyView
from cmek.gcp.kms import CloudKms
from cmek.gcp.resources import CryptoKey
from cmek.keys.verdicts import KeyRecord, Unreachability
from cmek.revalidation.request import KeyRef, Pacer, RevalidationRequest
from tasks.clients import google_client, kms_client
from tasks.key_pages import last_records

T = TypeVar("T")
WRITERS: Final = 4
"""Records that are kept at once: a server has 15 connections to its database, for all clients."""
HOLD_SECONDS: Final = 15.0
"""Pause of a location whose quota is used up, after the client's own tries."""


class Shared:
    """What is read once for several keys."""

    def __init__(self) -> None:
        self._shared: dict[str, asyncio.Task[Any]] = {}

    async def once(self, what: str, read: Callable[[], Awaitable[T]]) -> T:
        """Read it for the first key that asks, and hand it to the others."""
        task = self._shared.get(what)
        if task is None:
            task = asyncio.ensure_future(_as_coroutine(read()))
            self._shared[what] = task
        # a look that runs out of time must not take the others' read with it
        answer: T = await asyncio.shield(task)
        return answer

    def forget(self) -> None:
        """Drop what was read, and stop what is being read."""
        for task in self._shared.values():
            task.cancel()
        self._shared.clear()


class Ring(Shared):
    """The keys to look at in one ring, and what is read once for all of them."""

    def __init__(self, refs: list[KeyRef]) -> None:
        super().__init__()
        self.refs = refs
        self._left = len(refs)

    def done_with_one(self) -> None:
        """Forget what was read once nobody needs it any more."""
        self._left -= 1
        if self._left <= 0:
            self.forget()


@dataclass
class Sweep:
    """One revalidation."""

    request: RevalidationRequest
    organization_id: UUID
    run_id: str
    deadline: datetime
    rings: list[Ring]
    projects: Shared = field(default_factory=Shared)
    attempt: int = 0
    """Sweeps that this run has finished before: their looks don't count any more."""
    pacer: Pacer = field(init=False)
    looking: asyncio.Semaphore = field(init=False)
    """Bounds the keys that are read at once."""
    writing: asyncio.Semaphore = field(init=False)
    """Bounds the records that are kept at once."""
    asked_to: dict[str, Unreachability] = field(init=False)

    def __post_init__(self) -> None:
        self.pacer = Pacer(self.request.reads_per_minute)
        self.looking = asyncio.Semaphore(self.request.concurrency)
        self.writing = asyncio.Semaphore(WRITERS)
        self.asked_to = {one.external_key_id: one for one in self.request.look_again}

    async def paced(self, location: str, read: Callable[[], Awaitable[T]]) -> Result[T]:
        """One read of Cloud KMS, when it is its turn."""
        await self.pacer.turn(location)
        answer = await try_read(read())
        if isinstance(answer, Failed) and answer.status == "RESOURCE_EXHAUSTED":
            self.pacer.hold(location, HOLD_SECONDS)
        return answer

    async def crypto_key(self, ring: Ring, ref: KeyRef) -> Result[CryptoKey | None]:
        """The key, from one list of its ring where that serves several keys."""
        kms = await kms_client(self.request.kms_block)
        if len(ring.refs) > 1:
            listed = await ring.once("keys", lambda: self._listed(kms, ring))
            if isinstance(listed, Ok) and ref.key_name in listed.value:
                return Ok(listed.value[ref.key_name])
            if isinstance(listed, Failed) and listed.status != "PERMISSION_DENIED":
                return listed
        return await self.paced(ref.location, lambda: kms.get_crypto_key(ref.key_name))

    async def ring_policy(self, ring: Ring, ref: KeyRef) -> Result[PolicyView]:
        """The ring's IAM policy, read once."""
        kms = await kms_client(self.request.kms_block)
        return await ring.once(
            "policy", lambda: self.paced(ref.location, lambda: policy_view(kms, ref.key_ring))
        )

    async def project_policy(self, ref: KeyRef) -> Result[PolicyView]:
        """The project's IAM policy, read once."""
        google = await google_client(self.request.kms_block)
        project = ref.location.partition("/locations/")[0]

        async def read() -> PolicyView:
            return PolicyView.of(await google.iam_policy(project))

        return await self.projects.once(project, lambda: try_read(read()))

    async def previous(self, ring: Ring, ref: KeyRef) -> KeyRecord | None:
        """The key's last record; one request serves a ring."""
        ids = [one.external_key_id for one in ring.refs]
        records = await ring.once("records", lambda: last_records(ids))
        return records.get(ref.external_key_id)

    async def _listed(self, kms: CloudKms, ring: Ring) -> Result[dict[str, CryptoKey]]:
        wanted = {ref.key_name for ref in ring.refs}
        first = ring.refs[0]

        async def read() -> dict[str, CryptoKey]:
            keys = kms.list_crypto_keys(first.key_ring)
            return {key.name: key async for key in _until(keys, wanted) if key.name in wanted}

        return await self.paced(first.location, read)

    def forget(self) -> None:
        """Stop and drop everything that is shared."""
        for shared in (self.projects, *self.rings):
            shared.forget()


async def policy_view(kms: CloudKms, resource: str) -> PolicyView:
    """The IAM policy of a key or ring, as a value."""
    return PolicyView.of(await kms.get_iam_policy(resource))


async def _until(keys: AsyncIterator[CryptoKey], wanted: set[str]) -> AsyncIterator[CryptoKey]:
    """No more pages once everything that is wanted was there."""
    missing = set(wanted)
    async for key in keys:
        yield key
        missing.discard(key.name)
        if not missing:
            return


async def _as_coroutine(read: Awaitable[T]) -> T:
    return await read
