"""Creates of workspaces whose answer may still be on its way, as tags of the runs that sent them.

The Admin API has no idempotency key, so a create that nobody answered may take effect after the
list was searched in vain. The tag is set before the request leaves and removed when it was
refused; while one is young and its run has not completed, nobody sends another create for the name.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun

from cmek.discovery.earlier_runs import workspace_tag
from tasks.this_run import run_id

LATE: Final = timedelta(minutes=10)
"""How long a request may be under way: the official SDK gives up waiting then (600 s)."""
SENT_TAG: Final = "cmek-create-sent:"
"""Of a run, followed by when it sent a create, in ISO 8601."""


class CreateInDoubtError(Exception):
    """A create was sent, nobody knows its outcome, and it may still take effect."""


async def mark_sent() -> None:
    """Before a create is sent: note it where every later run sees it."""
    async with get_client() as client:
        await _retag(client, f"{SENT_TAG}{datetime.now(UTC).isoformat(timespec='seconds')}")


async def unmark_sent() -> None:
    """It was refused, or never left: nothing was created."""
    async with get_client() as client:
        await _retag(client)


async def nothing_in_doubt(subject: str) -> None:
    """Go on only when no create for this subject may still be under way.

    Raises:
        CreateInDoubtError: One may; says which run sent it and when it counts as lost.
    """
    now = datetime.now(UTC)
    async with get_client() as client:
        for run in await _runs_for(client, subject):
            if run.state is not None and run.state.is_completed():
                continue  # it knew the outcome
            for sent in _sent(run):
                if now < sent + LATE:
                    raise CreateInDoubtError(in_doubt(subject, f"run {run.name} ({run.id})", sent))


def in_doubt(subject: str, sender: str, sent: datetime) -> str:
    """The message that sends people away until the create counts as lost."""
    return (
        f"{sender} sent a create for {subject} at {sent:%Y-%m-%d %H:%M:%S} UTC and got no clear "
        f"answer, and no workspace with its tag is there so far; it may still appear. Nothing else "
        f"was sent. Retry after {sent + LATE:%H:%M:%S} UTC: the run looks again before it goes on"
    )


async def _runs_for(client: PrefectClient, subject: str) -> list[FlowRun]:
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(subject)]))
    runs: list[FlowRun] = []
    while page := await client.read_flow_runs(flow_run_filter=wanted, offset=len(runs), limit=200):
        runs += page
    return runs


def _sent(run: FlowRun) -> list[datetime]:
    marks = [tag.removeprefix(SENT_TAG) for tag in run.tags if tag.startswith(SENT_TAG)]
    return [datetime.fromisoformat(mark) for mark in marks]


async def _retag(client: PrefectClient, *mark: str) -> None:
    run = await client.read_flow_run(run_id())
    kept = {tag for tag in run.tags if not tag.startswith(SENT_TAG)}
    await client.update_flow_run(run.id, tags=sorted(kept.union(mark)))
