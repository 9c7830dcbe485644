"""Creates of workspaces whose answer may still be on its way, as tags of the runs that sent them.

The Admin API has no idempotency key, so a create that nobody answered may take effect after the
list was searched in vain. The tag is set before the request leaves and removed when it was
refused; while one is young and its run has not completed, nobody sends another create for the name.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun

from cmek.tags import CREATE_SENT_PREFIX, workspace_tag
from tasks.this_run import retag, runs_that_fit

LATE: Final = timedelta(minutes=10)
"""How long a request may be under way: the official SDK gives up waiting then (600 s)."""


class CreateInDoubtError(Exception):
    """A create was sent, nobody knows its outcome, and it may still take effect."""


async def mark_sent() -> None:
    """Before a create is sent: note it where every later run sees it."""
    async with get_client() as client:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        await retag(client, f"{CREATE_SENT_PREFIX}{now}", without=CREATE_SENT_PREFIX)


async def unmark_sent() -> None:
    """It was refused, or never left: nothing was created."""
    async with get_client() as client:
        await retag(client, without=CREATE_SENT_PREFIX)


async def nothing_in_doubt(subject: str) -> None:
    """Go on only when no create for this subject may still be under way.

    Raises:
        CreateInDoubtError: One may; says which run sent it and when it counts as lost.
    """
    now = datetime.now(UTC)
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(subject)]))
    async with get_client() as client:
        async for run in runs_that_fit(client, wanted):
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


def _sent(run: FlowRun) -> list[datetime]:
    marks = [
        tag.removeprefix(CREATE_SENT_PREFIX)
        for tag in run.tags
        if tag.startswith(CREATE_SENT_PREFIX)
    ]
    return [datetime.fromisoformat(mark) for mark in marks]
