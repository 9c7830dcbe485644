"""`cmek history WORKSPACE`: its onboarding, approvals and verdicts, as Prefect has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from rich.table import Table

from cmek.keys.verdicts import KeyRecord
from cmek.revalidation.fleet import SIGNS, read_page
from cmek.tags import workspace_tag
from console.prefect_client import connected, every
from console.runs import RunError
from console.status import read_fleet
from console.terminal import new_console, printable
from tasks.artifacts import page_key

PAGE = 200


@dataclass(frozen=True)
class Happening:
    """One line of the history."""

    at: datetime
    what: str
    outcome: str
    who: str = ""
    """As they said; Prefect verifies nobody."""
    where: str = ""
    """The flow run."""


def history_command(
    workspace_id: Annotated[str, typer.Argument(help="The workspace, wrkspc_….")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Show what happened to one workspace's key, oldest first; equal verdicts in a row as one."""
    with connected() as client:
        happenings = history(client, workspace_id)
    if not happenings:
        raise RunError(f"nothing is known about {workspace_id} on this server: check the id")
    if as_json:
        typer.echo(json.dumps([vars(one) for one in happenings], default=str, ensure_ascii=False))
        return
    table = Table("When", "What", "Outcome", "Who (as they said)", "Run")
    for one in happenings:
        when = f"{one.at:%Y-%m-%d %H:%M:%S}"
        table.add_row(when, *map(printable, (one.what, one.outcome, one.who, one.where)))
    new_console().print(table)


def history(client: SyncPrefectClient, workspace_id: str) -> list[Happening]:
    """Everything about a workspace, oldest first."""
    found = [*_onboardings(client, workspace_id), *_verdicts(client, workspace_id)]
    return sorted(found, key=lambda one: one.at)


def _onboardings(client: SyncPrefectClient, workspace_id: str) -> Iterator[Happening]:
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace_tag(workspace_id)]))
    for run in every(client.read_flow_runs, flow_run_filter=wanted):
        asked = str(run.parameters.get("request", {}).get("requested_by", ""))
        if run.created:
            yield Happening(run.created, "onboarding asked for", "", asked, str(run.id))
        for state in client.read_flow_run_states(run.id):
            if state.is_paused() or state.is_final():
                outcome = state.message or ""
                yield Happening(state.timestamp, f"run {state.name}", outcome, "", str(run.id))
        yield from _answers(client, run)


def _answers(client: SyncPrefectClient, run: FlowRun) -> Iterator[Happening]:
    """What people answered; the server keeps the newest answer of each ask."""
    for given in client.filter_flow_run_input(run.id, "suspended", limit=PAGE, exclude_keys=set()):
        answer = _answer(given.value) if given.key.endswith("-response") else None
        if answer is None or given.created is None:
            continue
        outcome = f"{answer.get('decision')}: {answer.get('comment', '')}"
        yield Happening(
            given.created, "answered", outcome, str(answer.get("approver", "")), str(run.id)
        )


def _answer(text: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "decision" in answer else None


def _verdicts(client: SyncPrefectClient, workspace_id: str) -> Iterator[Happening]:
    """Each change of verdict, from the history of the workspace's key."""
    for external_key_id in _keys_of(client, workspace_id):
        last = None
        for record in _records(client, external_key_id):
            if record.verdict is not last:
                why = "; ".join(one.says for one in record.reasons if one.means is record.verdict)
                sign = SIGNS[record.verdict]
                yield Happening(record.checked_at, f"verdict {sign}", why, "", record.run_id)
            last = record.verdict


def _keys_of(client: SyncPrefectClient, workspace_id: str) -> list[str]:
    try:
        rows = read_fleet(client)
    except RunError:
        return []
    return [row.external_key_id for row in rows if f"({workspace_id}" in row.workspaces]


def _records(client: SyncPrefectClient, external_key_id: str) -> list[KeyRecord]:
    """A key's looks, oldest first."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[page_key(external_key_id)]))
    looks = every(client.read_artifacts, artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC)
    records = filter(None, (read_page(str(artifact.data)) for artifact in looks))
    return sorted(records, key=lambda record: record.checked_at)
