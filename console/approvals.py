"""The approval that a suspended run waits for: read the question, give an answer.

The fields come from the form that the run stored, so that this code needs no copy of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import JsonValue

from cmek.approval import literal_in

_POLL_SECONDS = 0.3


class ApprovalError(RuntimeError):
    """There is nothing to answer, or the server refused the answer: says why and what to do."""


@dataclass(frozen=True)
class Ask:
    """A question that a suspended run has stored: its form, its text, and until when it counts."""

    run: FlowRun
    schema: Mapping[str, Any]
    description: str
    keyset: Mapping[str, str]
    expires_at: datetime | None

    @property
    def fields(self) -> dict[str, Mapping[str, Any]]:
        """The form's fields by name, in the order of the form."""
        properties: dict[str, Mapping[str, Any]] = self.schema.get("properties", {})
        return dict(sorted(properties.items(), key=lambda item: item[1].get("position", 0)))

    def expected(self, name: str) -> JsonValue:
        """The only value that the form accepts in a field, or None when it leaves a choice."""
        field = self.fields.get(name, {})
        if "const" in field:
            const: JsonValue = field["const"]
            return const
        return literal_in(field.get("pattern", ""))

    @property
    def workspace_field(self) -> str:
        """What must be typed about the workspace: its id, or the name of a new one."""
        return "workspace_name" if "workspace_name" in self.fields else "workspace_id"

    @property
    def workspace(self) -> str:
        """The workspace that is to be attached, or the name of the one to be created."""
        return str(self.expected(self.workspace_field) or "?")

    @property
    def workspace_id(self) -> str:
        """The workspace that is to be attached."""
        return str(self.expected("workspace_id") or "?")

    @property
    def plan_digest(self) -> str:
        """The digest of the plan that the answer is about."""
        return str(self.expected("plan_digest") or "?")

    @property
    def has_warnings(self) -> bool:
        """Whether the answer must acknowledge warnings."""
        return "acknowledge_warnings" in self.fields


def read_ask(client: SyncPrefectClient, run_id: UUID) -> Ask:
    """Read what the run asks.

    Raises:
        ApprovalError: the run does not wait for an answer, or has not stored its question yet.
    """
    run = client.read_flow_run(run_id)
    keyset = run.state.state_details.run_input_keyset if run.state else None
    if run.state is None or not run.state.is_paused() or not keyset:
        state = run.state.name if run.state else "in no state"
        raise ApprovalError(f"run {run.name} waits for no approval: it is {state}")
    try:
        schema = json.loads(client.read_flow_run_input(run.id, keyset["schema"]))
        description = json.loads(client.read_flow_run_input(run.id, keyset["description"]))
    except (ObjectNotFound, PrefectHTTPStatusError) as error:
        raise ApprovalError(
            f"run {run.name} is suspended, but its question is not stored yet: try again"
        ) from error
    return Ask(run, schema, description, keyset, run.state.state_details.pause_timeout)


def wait_for_ask(
    client: SyncPrefectClient, run_id: UUID, *, after: Ask | None = None, seconds: float
) -> Ask:
    """Wait until the run asks, and something else than `after`.

    Raises:
        ApprovalError: the run ended without a (further) question, or `seconds` passed.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask = read_ask(client, run_id)
            if after is None or ask.keyset != after.keyset:
                return ask
            problem = f"run {ask.run.name} has asked nothing new"
        except ApprovalError as error:
            problem = str(error)
        run = client.read_flow_run(run_id)
        if (run.state and run.state.is_final()) or time.monotonic() > deadline:
            message = run.state.message if run.state else None
            raise ApprovalError(f"{problem} ({message or 'no message'})")
        time.sleep(_POLL_SECONDS)


def answer(client: SyncPrefectClient, ask: Ask, fields: Mapping[str, Any]) -> None:
    """Give the answer and make sure that it was taken.

    The server answers 200 also when it refuses, so its `status` is what counts. After a lost
    answer the client asks again and hears that the run no longer waits; then the stored answer
    tells whether it is ours.

    Raises:
        ApprovalError: refused; names the field as the server does.
    """
    result = client.resume_flow_run(ask.run.id, run_input=dict(fields))
    if result.status is SetStateStatus.ACCEPT:
        return
    if result.status is SetStateStatus.ABORT and _stored(client, ask) == dict(fields):
        return
    reason = getattr(result.details, "reason", None) or "no reason given"
    raise ApprovalError(f"run {ask.run.name}: the server refused the answer: {reason}")


def _stored(client: SyncPrefectClient, ask: Ask) -> dict[str, Any] | None:
    try:
        stored: dict[str, Any] = json.loads(
            client.read_flow_run_input(ask.run.id, ask.keyset["response"])
        )
    except (ObjectNotFound, PrefectHTTPStatusError):
        return None
    return stored
