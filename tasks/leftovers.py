"""What onboarding made and nothing uses: found from the published records, kept as one table."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from prefect import get_client, get_run_logger
from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from pydantic import TypeAdapter, ValidationError

from cmek.anthropic.client import PENDING_CREATE_LIFETIME
from cmek.errors import listed
from cmek.evidence.events import may_still_take_effect
from cmek.evidence.leftovers import Leftover, find_leftovers, made_by, read_live
from cmek.evidence.record import Chain, EvidenceIntegrityError, loads
from cmek.evidence.report import record_in
from cmek.names import artifact_key
from cmek.outcomes import RunOutcome
from cmek.records import RecordsError, RecordTamperedError
from cmek.tags import LEFTOVERS, workspace_tag
from tasks._task_options import uncached_task
from tasks.artifacts import latest_artifact
from tasks.clients import admin_client, kms_client
from tasks.evidence import recorded_by
from tasks.runs import (
    ONBOARDING,
    KeyCreate,
    current_run_id,
    find_runs,
    never_ends_the_run,
    remembered_create,
)

_RECORDS_AT_ONCE: Final = 20
_ROWS: Final = TypeAdapter(tuple[Leftover, ...])


@dataclass(frozen=True)
class LeftoversFound:
    """What is left over, and which records could not be read: they may name more."""

    rows: tuple[Leftover, ...]
    unreadable: tuple[str, ...]

    @property
    def warning(self) -> str:
        """Which records can't be used, and what to do; empty when all could be read."""
        if not self.unreadable:
            return ""
        return (
            f"These records can't be used, so what they name is not listed: "
            f"{listed(self.unreadable)}. Those that do not verify were changed by somebody: "
            "`prefect artifact inspect` shows one, and the worker's records (CMEK_RECORDS) keep "
            "copies under evidence/"
        )


async def read_leftovers(
    anthropic_block: str, kms_block: str, *, subject: str | None = None, ended: str | None = None
) -> LeftoversFound:
    """What runs that have ended left behind, from their records and from live reads.

    The records are those on the server, and on the worker's machine also those that runs keep
    there that attached nothing.

    Args:
        anthropic_block: Name of the block.
        kms_block: Name of the block.
        subject: Whose records are read; those of all workspaces unless given.
        ended: A run that is treated as ended although it is executing: the caller's own.

    Raises:
        AdminApiError: The external keys can't be listed.
    """
    unreadable: list[str] = []
    async with get_client() as client:
        key = artifact_key("evidence", subject) if subject else None
        chains = [one async for one in _records(client, key, unreadable.append)]
        chains += [one async for one in _kept_records(client, subject, unreadable.append)]
        since = datetime.now(UTC) - PENDING_CREATE_LIFETIME
        unclear = {of for of, chain in chains if may_still_take_effect(chain, since)}
        made = [one for of, chain in chains if of not in unclear for one in made_by(of, chain)]
        if not made:
            return LeftoversFound((), tuple(unreadable))
        admin, kms = await admin_client(anthropic_block), await kms_client(kms_block)
        live = await read_live(made, admin, kms, _was_created)
        made = [one for one in made if not live.in_use(one)]
        subjects = {one.subject for one in made}
        busy = {one for one in subjects if await _is_under_way(client, one, ended)}
        made = [one for one in made if one.subject not in busy]
        if made:  # a run may have attached its key and ended since the first read
            live = await read_live(made, admin, kms, _was_created)
    return LeftoversFound(find_leftovers(made, live), tuple(unreadable))


async def _was_created(key_name: str) -> bool:
    return await remembered_create(key_name) is KeyCreate.CONFIRMED


async def _records(
    client: PrefectClient, key: str | None, unreadable: Callable[[str], object]
) -> AsyncIterator[tuple[str, Chain]]:
    """Every verified record with its workspace; a few at a time, since each may be long.

    `unreadable` gets the artifact's key of every other one.
    """
    wanted = ArtifactCollectionFilterKey(any_=[key]) if key else None
    wanted = wanted or ArtifactCollectionFilterKey(like_="cmek-evidence-%")
    offset = 0
    while page := await client.read_latest_artifacts(
        artifact_filter=ArtifactCollectionFilter(key=wanted),
        limit=_RECORDS_AT_ONCE,
        offset=offset,
    ):
        offset += len(page)
        for artifact in page:
            try:
                chain = loads(record_in(str(artifact.data)))
                subject = _subject(chain)
            except (EvidenceIntegrityError, IndexError):
                unreadable(str(artifact.key))
            else:
                yield subject, chain


async def _kept_records(
    client: PrefectClient, subject: str | None, unreadable: Callable[[str], object]
) -> AsyncIterator[tuple[str, Chain]]:
    """What runs that attached nothing have recorded on this worker, with their workspaces.

    A run that is killed publishes nothing. The retry of an earlier run continues the record that
    it began with, so the newest record on the server may be another run's.
    """
    of = FlowFilter(name=FlowFilterName(any_=[ONBOARDING.partition("/")[0]]))
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*TERMINAL_STATES])),
        tags=FlowRunFilterTags(all_=[workspace_tag(subject)]) if subject else None,
    )
    async for run in find_runs(client, wanted, of=of):
        if run.state and run.state.is_completed() and run.state_name != RunOutcome.REJECTED:
            continue
        try:
            chain = await recorded_by(run.id)
            if chain is not None:
                yield _subject(chain), chain
        except (RecordTamperedError, EvidenceIntegrityError, IndexError):
            unreadable(f"the worker's own of run {run.id}")
        except RecordsError as error:
            unreadable(str(error))
            return


def _subject(chain: Chain) -> str:
    """The workspace of the last run.

    Raises:
        IndexError: No run has started.
    """
    return [entry.subject for entry in chain.entries if entry.kind == "started"][-1]


async def _is_under_way(client: PrefectClient, subject: str, ended: str | None) -> bool:
    """Whether a run may still attach: not ended, and not past the time to approve."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(subject)]))
    runs = [run async for run in find_runs(client, wanted)]
    return any(_is_open(run) for run in runs if str(run.id) != ended)


def _is_open(run: FlowRun) -> bool:
    if run.state is None or run.state.is_final():
        return False
    until = run.state.state_details.pause_timeout
    return not (run.state.is_paused() and until is not None and until < datetime.now(UTC))


async def last_leftovers() -> tuple[Leftover, ...] | None:
    """The rows of the last table, as `read_table`."""
    return read_table(getattr(await latest_artifact(LEFTOVERS), "data", None))


def read_table(data: object) -> tuple[Leftover, ...] | None:
    """The rows of a table; None when the table can't be read."""
    try:
        if isinstance(data, str):
            return _ROWS.validate_json(data)
        return _ROWS.validate_python(data or ())
    except ValidationError:
        return None


@uncached_task(name="Leftovers")
async def publish_leftovers(
    anthropic_block: str, kms_block: str, subject: str | None = None
) -> None:
    """Update the table of leftovers, for all workspaces or for one.

    Never fails the run: what can't be read is logged, and `cmek leftovers` can read it any time.
    """
    with never_ends_the_run("What is left over was not listed"):
        found = await read_leftovers(
            anthropic_block, kms_block, subject=subject, ended=str(current_run_id())
        )
        if found.warning:
            get_run_logger().warning("%s", found.warning)
        if subject and found.rows:
            named = _named(found.rows)
            get_run_logger().warning("Left over: %s. `cmek leftovers` has the commands", named)
        kept = await last_leftovers()
        if kept is None:
            get_run_logger().warning("The table %s can't be read and is made anew", LEFTOVERS)
        others = (one for one in kept or () if subject and one.subject != subject)
        rows = (*others, *found.rows)
        if rows != kept:
            await _publish(rows)


async def _publish(rows: Sequence[Leftover]) -> None:
    table = [one.model_dump(mode="json") for one in rows]
    about = f"{len(rows)} things that onboarding made and nothing uses"
    await acreate_table_artifact(table=table, key=LEFTOVERS, description=about)


def _named(found: Iterable[Leftover]) -> str:
    return ", ".join(f"{one.kind} {one.resource.rpartition('/')[2]}" for one in found)
