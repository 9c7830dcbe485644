"""`cmek status`: the latest verdicts, worst first. `cmek history`: what happened to one key.

Both read what the runs have stored in Prefect. `status` is typed often, so it imports no more than
Prefect's client and the pure half of the revalidation.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from pydantic_core import from_json

from cli.client import PAGE, RunError, connected, every
from cli.options import AnthropicBlock, JsonArray, KmsBlock, Subject, check_workspace
from cli.terminal import new_console, printable, show_markdown, show_rows
from cmek.keys.history import key_page, read_page
from cmek.keys.verdicts import Health, KeyRecord
from cmek.models import request_in
from cmek.names import artifact_key
from cmek.revalidation.fleet import (
    FLEET,
    FleetRow,
    counts,
    facts,
    read_items,
    read_rows,
    shown_counts,
    users_of,
    worst_first,
)
from cmek.revalidation.request import shown_id
from cmek.tags import LEFTOVERS, workspace_tag

STYLES: Final = {
    Health.BROKEN: "bold red",
    Health.UNKNOWN: "bold",
    Health.AT_RISK: "yellow",
    Health.HEALTHY: "green",
}


def status_command(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Healthy keys too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, all keys.")] = False,
    live: Annotated[
        str | None,
        typer.Option(
            metavar="WORKSPACE",
            callback=check_workspace,
            help="Check this workspace's key now, by live reads; leaves no record.",
        ),
    ] = None,
    anthropic_block: AnthropicBlock = None,
    kms_block: KmsBlock = None,
) -> None:
    """Show the last verdicts; exit code 1 when a key is broken or was not checked in time.

    In time means within 26 hours: a full check runs each day.
    """
    console = new_console()
    if live is not None:
        with connected():
            record = _checked_now(live, anthropic_block, kms_block)
        if as_json:
            typer.echo(record.model_dump_json())
        else:
            show_markdown(console, key_page(record).partition("### Record")[0])
        raise typer.Exit(int(record.verdict is Health.BROKEN))
    with connected() as client:
        rows, left = read_fleet(client), _leftovers(client)
        records = _last_records(client, rows) if as_json else {}
    now = datetime.now(UTC)
    outdated = sum(row.outdated(now) is not None for row in rows)
    if as_json:
        data = [facts(row, records.get(row.external_key_id), now) for row in rows]
        typer.echo(json.dumps(data, ensure_ascii=False))
    else:
        shown = [
            row
            for row in rows
            if everything or row.level is not Health.HEALTHY or row.outdated(now)
        ]
        show_rows(console, _FLEET_TITLES, (_fleet_row(row, now) for row in shown))
        console.print(shown_counts(counts(rows)), soft_wrap=True)
        oldest, newest = (chosen(row.checked for row in rows) for chosen in (min, max))
        console.print(f"Oldest check at {oldest} UTC, newest at {newest} UTC", soft_wrap=True)
        if left:
            unused = f"{left} things of onboardings are used by nothing: `cmek leftovers`"
            console.print(unused, soft_wrap=True)
    if outdated:
        _warn(
            f"{outdated} of {len(rows)} verdicts are not current: does the worker run, is the "
            "schedule of revalidate-keys/scheduled active, and are the clocks right? Only "
            "`cmek status --live WORKSPACE` shows how a key is now"
        )
    if outdated or any(row.level is Health.BROKEN for row in rows):
        raise typer.Exit(1)


def _checked_now(
    workspace_id: str, anthropic_block: str | None, kms_block: str | None
) -> KeyRecord:
    # imports Google's libraries, which the stored verdicts do not need
    from tasks.clients import block_names, close_clients  # noqa: PLC0415
    from tasks.revalidation import check_now  # noqa: PLC0415

    async def check() -> KeyRecord:
        try:
            return await check_now(*await block_names(anthropic_block, kms_block), workspace_id)
        finally:
            await close_clients()

    return asyncio.run(check())


def _last_records(client: SyncPrefectClient, rows: list[FleetRow]) -> dict[str, KeyRecord]:
    """The last record of each key, by the external key."""
    keys = [artifact_key("key", row.external_key_id) for row in rows]
    found: dict[str, KeyRecord] = {}
    for at in range(0, len(keys), PAGE):
        wanted = ArtifactCollectionFilter.model_validate({"key": {"any_": keys[at : at + PAGE]}})
        for one in client.read_latest_artifacts(artifact_filter=wanted, limit=PAGE):
            if record := read_page(str(one.data)):
                found[record.external_key_id] = record
    return found


def _leftovers(client: SyncPrefectClient) -> int:
    """How many leftovers the last run has listed."""
    wanted = ArtifactCollectionFilter.model_validate({"key": {"any_": [LEFTOVERS]}})
    found = client.read_latest_artifacts(artifact_filter=wanted, limit=1)
    return len(read_items(LEFTOVERS, found[0].data if found else None, _warn))


def read_fleet(client: SyncPrefectClient) -> list[FleetRow]:
    """The rows of the last table, worst first.

    Raises:
        RunError: There is none yet, or none that can be read.
    """
    wanted = ArtifactCollectionFilter.model_validate({"key": {"any_": [FLEET]}})
    found = client.read_latest_artifacts(artifact_filter=wanted, limit=1)
    damage: list[str] = []
    rows = worst_first(read_rows(found[0].data if found else None, damage.append).values())
    for one in damage:
        _warn(one)
    if not rows:
        why = "no verdict can be read" if damage else "no revalidation has ended on this server yet"
        raise RunError(f"{why}: start revalidate-keys/scheduled, or wait for its schedule")
    return rows


def _warn(text: str) -> None:
    new_console(stderr=True).print(f"[yellow]warning:[/] {printable(text)}", soft_wrap=True)


_DAYS: Final = 7
_FLEET_TITLES: Final = (
    "Verdict",
    "Workspaces",
    "Key",
    "Why",
    "Since",
    "Time left",
    "Last days",
)


def _fleet_row(row: FleetRow, now: datetime) -> tuple[str, ...]:
    outdated = row.outdated(now)
    # not green: it was healthy at its last check, and nobody knows how it is now
    healthy = row.level is Health.HEALTHY
    style = STYLES[Health.UNKNOWN if outdated and healthy else row.level]
    verdict = (
        f"[{style}]{printable(row.verdict)}{f' ({printable(outdated)})' if outdated else ''}[/]"
    )
    users = row.workspaces or "no workspace yet"
    days = row.marks_until(now.date())[-_DAYS:]
    texts = (users, row.key_name, row.why, row.since, row.time_left, days)
    return (verdict, *map(printable, texts))


@dataclass(frozen=True)
class HistoryEntry:
    """One line of the history; `who` is unverified, `where` is the flow run's id."""

    at: datetime
    what: str
    outcome: str
    who: str
    where: str


def history_command(
    workspace_id: Subject,
    *,
    as_json: JsonArray = False,
) -> None:
    """Show what happened to one workspace's key, oldest first.

    Equal verdicts in a row are one line.
    """
    with connected() as client:
        entries = history(client, workspace_id)
    if not entries:
        raise RunError(f"nothing is known about {workspace_id} on this server: check the id")
    if as_json:
        data = [vars(one) | {"at": one.at.isoformat()} for one in entries]
        typer.echo(json.dumps(data, ensure_ascii=False))
        return
    rows = (
        (
            f"{one.at:%Y-%m-%d %H:%M:%S %Z}",
            *map(printable, (one.what, one.outcome, one.who, one.where)),
        )
        for one in entries
    )
    show_rows(new_console(), ("When", "What", "Outcome", "Who (as they said)", "Run"), rows)


def history(client: SyncPrefectClient, workspace_id: str) -> list[HistoryEntry]:
    """Everything about a workspace, oldest first."""
    found = [*_onboardings(client, workspace_id), *_verdicts(client, workspace_id)]
    return sorted(found, key=lambda one: one.at)


def _onboardings(client: SyncPrefectClient, workspace_id: str) -> Iterator[HistoryEntry]:
    wanted = FlowRunFilter.model_validate({"tags": {"all_": [workspace_tag(workspace_id)]}})
    for run in every(client.read_flow_runs, flow_run_filter=wanted):
        request = request_in(run.parameters)
        asked = str(request.get("requested_by", ""))
        if run.created:
            flaw = "" if request else "its request can't be read"
            yield HistoryEntry(run.created, "onboarding requested", flaw, asked, str(run.id))
        for state in client.read_flow_run_states(run.id):
            if state.is_paused() or state.is_final():
                outcome = state.message or ""
                yield HistoryEntry(state.timestamp, f"run {state.name}", outcome, "", str(run.id))
        yield from _responses(client, run)


def _responses(client: SyncPrefectClient, run: FlowRun) -> Iterator[HistoryEntry]:
    """The approval responses; the server keeps the newest one of each request."""
    for given in client.filter_flow_run_input(run.id, "suspended", limit=PAGE, exclude_keys=set()):
        if not given.key.endswith("-response") or given.created is None:
            continue
        response = _response(given.value)
        outcome, approver = "it can't be read", ""
        if response is not None:
            outcome = f"{response['decision']}: {response.get('comment', '')}"
            approver = str(response.get("approver", ""))
        yield HistoryEntry(given.created, "approval response", outcome, approver, str(run.id))


def _response(text: str) -> dict[str, Any] | None:
    """The fields of a response; None when the stored text is none: anyone may have written it."""
    try:
        # refuses deep nesting and lone surrogates, which could not be printed, as a ValueError
        response = from_json(text)
    except ValueError:
        return None
    return response if isinstance(response, dict) and "decision" in response else None


def _verdicts(client: SyncPrefectClient, workspace_id: str) -> Iterator[HistoryEntry]:
    """Each change of verdict of the workspace's keys, and whether the last one is current."""
    try:
        rows = read_fleet(client)
    except RunError:
        return
    records = _last_records(client, rows)
    now = datetime.now(UTC)
    for row in rows:
        users = users_of(row, records.get(row.external_key_id))
        if workspace_id not in map(shown_id, users):
            continue
        last = None
        for record in _records(client, row.external_key_id):
            if record.verdict is not last:
                why = "; ".join(one.says for one in record.reasons if one.means is record.verdict)
                verdict = record.verdict.replace("_", " ")
                yield HistoryEntry(record.checked_at, f"verdict {verdict}", why, "", record.run_id)
            last = record.verdict
        if outdated := row.outdated(now):
            yield HistoryEntry(now, "verdict not current", outdated, "", "")


def _records(client: SyncPrefectClient, external_key_id: str) -> list[KeyRecord]:
    """The records of a key's checks, oldest first."""
    key = artifact_key("key", external_key_id)
    wanted = ArtifactFilter.model_validate({"key": {"any_": [key]}})
    pages = every(client.read_artifacts, artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC)
    records = filter(None, (read_page(str(artifact.data)) for artifact in pages))
    return sorted(records, key=lambda record: record.checked_at)
