"""Revalidations without a Prefect server: the real flow's code, with Prefect's part in memory.

What the flow keeps with Prefect goes through the driver's hook as well, so that a process can be
gone between any two of its records.
"""

from __future__ import annotations

import copy
import inspect
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest.mock import patch

from prefect.client.schemas.filters import ArtifactCollectionFilter
from pydantic import BaseModel

import flows.revalidate
import tasks.artifacts
import tasks.revalidation
from cmek.keys.history import read_page
from cmek.keys.verdicts import KeyRecord
from cmek.revalidation.fleet import FLEET, FleetRow, read_rows
from cmek.revalidation.request import RevalidationRequest
from tasks.artifacts import page_key
from tests.support.driver import Driver
from tests.support.plain import Plain
from tests.support.runs import AnyRun

UNPACED: Final = RevalidationRequest(reads_per_minute=1_000_000)
"""All keys; the pace of the reads is not what is tried here."""


@dataclass
class Revalidation(AnyRun):
    """What is kept of a revalidation."""

    parameters: RevalidationRequest = UNPACED
    results: dict[str, KeyRecord] = field(default_factory=dict)
    """Of key reads, by cache key."""

    def work(self) -> Coroutine[Any, Any, Any]:
        """The revalidation flow."""
        return flows.revalidate.revalidate_keys.fn(self.parameters)

    def looked_at(self) -> set[str]:
        """External keys whose reads are kept as results, so that a retry need not repeat them."""
        return {record.external_key_id for record in self.results.values()}


@dataclass
class Kept:
    """Artifacts, events and follow-ups, as Prefect's server would keep them."""

    driver: Driver
    artifacts: dict[str, list[tuple[uuid.UUID, Any]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By key: run and data of each version, oldest first."""
    on_the_way: dict[uuid.UUID, tuple[str, str]] = field(default_factory=dict)
    """Events that the process has still to send: it takes them along when it is killed."""
    events: dict[uuid.UUID, tuple[str, str]] = field(default_factory=dict)
    """By id, under which the server takes an event once: what, and about which resource."""
    follow_ups: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By idempotency key: the request of each run that was scheduled."""
    writes: int = 0
    """Of the executions since `go_back_to`."""

    def go_back_to(self, earlier: Kept) -> None:
        """Keep what was kept then and nothing else."""
        self.writes = 0
        self.on_the_way = {}
        self.artifacts = copy.deepcopy(earlier.artifacts)
        self.events, self.follow_ups = dict(earlier.events), dict(earlier.follow_ups)

    def records(self, external_key_id: str) -> list[KeyRecord]:
        """A key's history, oldest first."""
        pages = [read_page(data) for _, data in self.artifacts[page_key(external_key_id)]]
        return [page for page in pages if page is not None]

    def rows(self) -> dict[str, FleetRow]:
        """The newest table of the fleet."""
        return read_rows(self.artifacts[FLEET][-1][1])

    # what the flow calls

    async def publish(self, *, key: str, description: str, **data: Any) -> None:
        """`prefect.artifacts.acreate_…_artifact`, whatever the kind."""
        await self.write(f"artifact {key}", self._append, key, data.popitem()[1])

    def emit_event(
        self,
        event: str,
        resource: dict[str, str],
        payload: dict[str, Any] | None = None,
        id: uuid.UUID | None = None,  # noqa: A002 - Prefect's name
    ) -> None:
        """`prefect.events.emit_event`."""
        if not self.driver.is_killed:
            self.on_the_way[id or uuid.uuid4()] = (event, resource["prefect.resource.id"])

    def deliver(self) -> None:
        """Take the events that were sent; at the latest, this is when a key's result is kept."""
        self.events |= self.on_the_way
        self.on_the_way = {}

    def keep_result(self, run: Revalidation, name: str, record: KeyRecord) -> None:
        """The record of a key, under its cache key."""
        run.results[name] = record
        self.deliver()

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[Kept]:
        """`prefect.get_client`."""
        yield self

    async def read_latest_artifacts(
        self, artifact_filter: ArtifactCollectionFilter, limit: int
    ) -> list[SimpleNamespace]:
        """The newest version of each key."""
        assert artifact_filter.key is not None
        found = [self.artifacts[key] for key in artifact_filter.key.any_ or ()]
        return [SimpleNamespace(data=versions[-1][1]) for versions in found if versions]

    async def create_flow_run_from_deployment(
        self, deployment: Any, *, parameters: dict[str, Any], idempotency_key: str, **_: Any
    ) -> SimpleNamespace:
        """One run for each idempotency key."""
        request = parameters["request"]
        await self.write("follow-up", self.follow_ups.setdefault, idempotency_key, request)
        return SimpleNamespace(name="follow-up")

    async def save_state(self, name: str, value: BaseModel) -> None:
        """`tasks.runs.save_state`."""
        memory = self.driver.executing().memory
        await self.write(f"memory {name}", memory.__setitem__, name, value.model_dump_json())

    async def write(self, what: str, keep: Callable[..., Any], *data: Any) -> None:
        """Keep something, with the driver's hook around it."""

        async def write() -> None:
            self.writes += 1
            keep(*data)

        await self.driver.watch(what, write)

    def _append(self, key: str, data: Any) -> None:
        self.artifacts[key].append((self.driver.executing().id, copy.deepcopy(data)))


class WithResults(Plain):
    """A task whose results are kept under its own cache key."""

    def __init__(self, task: Any, kept: Kept) -> None:
        super().__init__(task)
        self.kept = kept

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the kept result, or call and keep."""
        run = self.kept.driver.executing()
        assert isinstance(run, Revalidation)
        given = dict(inspect.signature(self.fn).bind(*args, **kwargs).arguments)
        context = SimpleNamespace(task_run=SimpleNamespace(flow_run_id=run.id))
        name = self.task.cache_policy.compute_key(cast("Any", context), given, {})
        assert name is not None
        if name not in run.results:
            record = await super().__call__(*args, **kwargs)
            what = f"result {record.external_key_id}"
            await self.kept.write(what, self.kept.keep_result, run, name, record)
            return record
        return run.results[name]


@contextmanager
def revalidating(driver: Driver) -> Iterator[Kept]:
    """Prefect's side of revalidations that this driver executes."""
    kept = Kept(driver)
    look = tasks.revalidation.revalidate_key
    assert isinstance(look, Plain)
    replaced: list[tuple[Any, str, Any]] = [
        (flows.revalidate, "revalidate_key", WithResults(look.task, kept)),
        (flows.revalidate, "save_state", kept.save_state),
        (flows.revalidate, "acreate_progress_artifact", _nothing),
        (flows.revalidate, "aupdate_progress_artifact", _nothing),
        (tasks.artifacts, "get_client", kept.get_client),
        (tasks.revalidation, "acreate_table_artifact", kept.publish),
        (tasks.revalidation, "acreate_image_artifact", kept.publish),
        (tasks.revalidation, "emit_event", kept.emit_event),
        (tasks.revalidation, "get_client", kept.get_client),
        (tasks.artifacts, "acreate_markdown_artifact", kept.publish),
        (tasks.revalidation, "HOLD_SECONDS", 0.0),
    ]
    with ExitStack() as stack:
        for module, name, value in replaced:
            stack.enter_context(patch.object(module, name, value))
        yield kept


async def _nothing(*args: Any, **kwargs: Any) -> None:
    return None
