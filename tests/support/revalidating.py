"""Revalidations without a Prefect server: the real flow's code, with Prefect's part in memory.

Each write to Prefect goes through the driver's hook as well, so that a process can be killed
between any two of them.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, TypeVar
from unittest.mock import patch

import httpx
import pytest
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactFilter
from prefect.client.schemas.sorting import ArtifactSort
from pydantic import BaseModel

import flows.revalidate
import tasks.announcements
import tasks.artifacts
import tasks.revalidation
from cmek.keys.history import read_page
from cmek.keys.verdicts import KeyRecord
from cmek.revalidation.fleet import FLEET, FleetRow, read_rows
from cmek.revalidation.request import RevalidationRequest
from tasks.artifacts import page_key
from tests.support.driver import Driver
from tests.support.runs import AnyRun

M = TypeVar("M", bound=BaseModel)
UNPACED: Final = RevalidationRequest(reads_per_minute=1_000_000)
"""All keys, without a limit on reads, which is not the subject here."""
TURNS: Final = 20
"""Turns of the event loop before a write is stored. A refusal comes at once, so that a write which
the flow does not await is lost when another one is refused."""


@dataclass
class Revalidation(AnyRun):
    """A run of the revalidation."""

    parameters: RevalidationRequest = UNPACED

    def work(self) -> Coroutine[Any, Any, Any]:
        """The revalidation flow."""
        return flows.revalidate.revalidate_keys.fn(self.parameters)


@dataclass
class Kept:
    """Artifacts, events and follow-up runs, as Prefect's server would store them."""

    driver: Driver
    artifacts: dict[str, list[tuple[uuid.UUID, Any]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """By key: run and data of each version, oldest first."""
    events: dict[uuid.UUID, tuple[str, str]] = field(default_factory=dict)
    """By id, which the server accepts only once: the event's name and its resource."""
    follow_ups: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By idempotency key: the request of each run that was scheduled."""
    writes: int = 0
    """The number of writes since `go_back_to`."""
    asked: list[str] = field(default_factory=list)
    """Every request to Prefect's server since `go_back_to`."""
    refuses: Callable[[str], bool] = lambda what: False
    """Which of these requests get no answer."""

    def go_back_to(self, earlier: Kept) -> None:
        """Restore exactly what was stored then."""
        self.writes, self.asked = 0, []
        self.artifacts = copy.deepcopy(earlier.artifacts)
        self.events, self.follow_ups = dict(earlier.events), dict(earlier.follow_ups)

    def records(self, external_key_id: str) -> list[KeyRecord]:
        """A key's history, oldest first."""
        pages = [read_page(data) for _, data in self.artifacts[page_key(external_key_id)]]
        return [page for page in pages if page is not None]

    def rows(self) -> dict[str, FleetRow]:
        """The newest table of the fleet."""
        return read_rows(self.artifacts[FLEET][-1][1], pytest.fail)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.refuses(what):
            raise httpx.ConnectError(f"{what}: refused")

    # what the flow calls

    async def publish(self, *, key: str, description: str, **data: Any) -> None:
        """`prefect.artifacts.acreate_…_artifact`, for every kind."""
        await self.write(f"artifact {key}", self._append, key, data.popitem()[1])

    async def publish_table(self, key: str, text: str, description: str) -> None:
        """`tasks.artifacts.publish_table`."""
        await self.publish(key=key, description=description, table=text)

    async def request(self, method: str, path: str, *, json: list[dict[str, Any]]) -> None:
        """The request that sends events."""
        assert (method, path) == ("POST", "/events")
        for one in json:
            sent = one["event"], one["resource"]["prefect.resource.id"]
            await self.write(
                f"event {' '.join(sent)}", self.events.__setitem__, uuid.UUID(one["id"]), sent
            )

    @asynccontextmanager
    async def get_client(self) -> AsyncIterator[Kept]:
        """`prefect.get_client`."""
        yield self

    async def read_latest_artifacts(
        self, artifact_filter: ArtifactCollectionFilter, limit: int
    ) -> list[SimpleNamespace]:
        """The newest version of each key."""
        assert artifact_filter.key is not None
        self._ask(f"read of {', '.join(sorted(artifact_filter.key.any_ or ()))}")
        found = [self.artifacts[key] for key in artifact_filter.key.any_ or ()]
        newest = [versions[-1] for versions in found if versions]
        return [SimpleNamespace(latest_id=run, data=data) for run, data in newest]

    async def read_artifacts(
        self, artifact_filter: ArtifactFilter, sort: ArtifactSort, limit: int
    ) -> list[SimpleNamespace]:
        """The newest versions of one key, newest first."""
        assert artifact_filter.key is not None
        assert sort is ArtifactSort.CREATED_DESC
        key = (artifact_filter.key.any_ or [""])[0]
        self._ask(f"read of recent {key}")
        return [SimpleNamespace(data=data) for _, data in self.artifacts[key][: -limit - 1 : -1]]

    async def create_flow_run_from_deployment(
        self, deployment: Any, *, parameters: dict[str, Any], idempotency_key: str, **_: Any
    ) -> SimpleNamespace:
        """One run for each idempotency key."""
        request = parameters["request"]
        await self.write("follow-up", self.follow_ups.setdefault, idempotency_key, request)
        return SimpleNamespace(name="follow-up", state=None)

    async def load_state(self, name: str, kind: type[M]) -> M | None:
        """`tasks.runs.load_state`."""
        text = self.driver.executing().memory.get(name)
        return kind.model_validate_json(text) if text else None

    async def save_state(self, name: str, value: BaseModel) -> None:
        """`tasks.runs.save_state`."""
        memory = self.driver.executing().memory
        await self.write(f"memory {name}", memory.__setitem__, name, value.model_dump_json())

    async def write(self, what: str, keep: Callable[..., Any], *data: Any) -> None:
        """Store something, with the driver's hook around it."""

        async def write() -> None:
            self._ask(what)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            self.writes += 1
            keep(*data)

        await self.driver.watch(what, write)

    async def show_progress(self, *args: Any, **kwargs: Any) -> uuid.UUID:
        """Prefect's two functions for a progress artifact."""
        self._ask("progress")
        return uuid.uuid4()

    def _append(self, key: str, data: Any) -> None:
        self.artifacts[key].append((self.driver.executing().id, copy.deepcopy(data)))


@contextmanager
def revalidating(driver: Driver) -> Iterator[Kept]:
    """Replace Prefect for the revalidations that this driver executes."""
    kept = Kept(driver)
    replaced: list[tuple[Any, str, Any]] = [
        (flows.revalidate, "skipped_as_late", _nothing),
        (flows.revalidate, "wait_for_turn", _nothing),
        (flows.revalidate, "publish_leftovers", _nothing),
        (flows.revalidate, "save_state", kept.save_state),
        (flows.revalidate, "load_state", kept.load_state),
        (flows.revalidate, "acreate_progress_artifact", kept.show_progress),
        (flows.revalidate, "aupdate_progress_artifact", kept.show_progress),
        (tasks.artifacts, "get_client", kept.get_client),
        (tasks.announcements, "get_client", kept.get_client),
        (tasks.revalidation, "publish_table", kept.publish_table),
        (tasks.revalidation, "acreate_markdown_artifact", kept.publish),
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
