"""Flow runs: the one that is executing, and those that fit a filter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run

_PAGE: Final = 200


def run_id() -> UUID:
    """Its id.

    Raises:
        RuntimeError: Outside a flow run.
    """
    known: str | None = flow_run.id
    if known is None:
        raise RuntimeError("outside a flow run")
    return UUID(known)


async def retag(client: PrefectClient, *tags: str, without: str | None = None) -> None:
    """Add tags to this run.

    Args:
        client: Of the Prefect server.
        tags: To add; one that is there stays.
        without: Tags with this prefix that the run has had are removed.
    """
    run = await client.read_flow_run(run_id())
    kept = {tag for tag in run.tags if without is None or not tag.startswith(without)}
    await client.update_flow_run(run.id, tags=sorted(kept.union(tags)))


async def runs_that_fit(client: PrefectClient, wanted: FlowRunFilter) -> AsyncIterator[FlowRun]:
    """The runs that fit a filter, over all pages."""
    offset = 0
    while page := await client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=offset):
        offset += len(page)
        for run in page:
            yield run
