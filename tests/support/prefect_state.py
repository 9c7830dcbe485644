"""What Prefect's server stores, in memory, and its rules for the states of runs and for filters."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

_FINAL: Final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
Json = dict[str, Any]


class RefusedCallError(Exception):
    """A call that is answered with an error of this status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Text(str):
    """An answer that is not JSON."""

    __slots__ = ()


def now() -> str:
    """The time as Prefect writes it."""
    return datetime.now(UTC).isoformat()


def new_record(**fields: Any) -> Json:
    """A record with a new id."""
    created = now()
    return {"id": str(uuid4()), "created": created, "updated": created, **fields}


def fits(record: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Whether a record fits a filter of Prefect's; its fields are joined by *and*."""
    return all(
        _meets(record, name, criteria)
        for name, criteria in (wanted or {}).items()
        if criteria is not None and name != "operator"
    )


def _meets(record: Mapping[str, Any], name: str, criteria: Mapping[str, Any]) -> bool:
    if name == "state":
        fields = {"type": record["state_type"], "name": record["state_name"]}
        return fits(fields, criteria)
    value = record[name]
    return all(
        _TESTS[test](value, against)
        for test, against in criteria.items()
        if against is not None and test != "operator"
    )


def _values(value: Any) -> set[Any]:
    return set(value) if isinstance(value, list) else {value}


def _like(pattern: str) -> re.Pattern[str]:
    """SQL's pattern, in which a percent sign matches any text."""
    return re.compile(".*".join(map(re.escape, pattern.split("%"))), re.IGNORECASE)


_TESTS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "any_": lambda value, against: bool(_values(value) & set(against)),
    "not_any_": lambda value, against: not _values(value) & set(against),
    "all_": lambda value, against: _values(value) >= set(against),
    "like_": lambda value, against: bool(_like(against).search(str(value or ""))),
    "exists_": lambda value, against: (value is not None) == against,
    "is_null_": lambda value, against: (not value) == against,
    "before_": lambda value, against: value is not None and time_of(value) <= time_of(against),
    "after_": lambda value, against: value is not None and time_of(value) >= time_of(against),
}


def time_of(text: str) -> datetime:
    """A time in JSON."""
    return datetime.fromisoformat(text)


def page(records: list[Json], body: Json) -> list[Json]:
    """One page of the records, in the order that the call asks for."""
    if body.get("sort"):
        name, _, order = body["sort"].rpartition("_")
        records = sorted(
            records, key=lambda one: str(one[name.lower()] or ""), reverse=order == "DESC"
        )
    start = body.get("offset") or 0
    return records[start : start + (body.get("limit") or 200)]


@dataclass
class MemoryPrefect:
    """Flows, runs, artifacts, blocks, limits and events, as JSON."""

    flows: dict[str, Json] = field(default_factory=dict)
    deployments: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, Json] = field(default_factory=dict)
    states: dict[str, list[Json]] = field(default_factory=dict)
    inputs: dict[tuple[str, str], str] = field(default_factory=dict)
    artifacts: dict[str, Json] = field(default_factory=dict)
    block_types: dict[str, Json] = field(default_factory=dict)
    block_schemas: dict[str, Json] = field(default_factory=dict)
    blocks: dict[str, Json] = field(default_factory=dict)
    limits: dict[str, Json] = field(default_factory=dict)
    leases: dict[str, tuple[list[str], datetime]] = field(default_factory=dict)
    events: dict[str, Json] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def set_state(self, run: Json, state: Json, *, force: bool = False) -> Json:
        """Accept a state, or refuse it with the reason, by the server's rules."""
        refused = None if force else self._refusal(run, state)
        if refused is not None:
            return refused
        policy = run["empirical_policy"]
        before = run["state"]
        resumes = not force and before["type"] == "PAUSED" and state["type"] == "SCHEDULED"
        if state["type"] == "PAUSED" and not force:
            policy["pause_keys"] = [*policy["pause_keys"], state["state_details"]["pause_key"]]
            # the server deletes old inputs when it pauses: an earlier response is not read again
            for key in (state["state_details"].get("run_input_keyset") or {}).values():
                self.inputs.pop((run["id"], key), None)
        # a retried run may suspend at the same keys again
        if not force and before["type"] in _FINAL and state["type"] not in _FINAL:
            policy |= {"pause_keys": [], "resuming": False}
        if resumes:
            policy["resuming"] = True
        elif state["type"] == "RUNNING":
            run["run_count"] += not policy["resuming"]  # a resumed run is still the same attempt
            policy["resuming"] = False
        self._keep(run, state)
        return {"status": "ACCEPT", "state": run["state"], "details": {"type": "accept_details"}}

    def _keep(self, run: Json, state: Json) -> None:
        kept: Json = {
            "id": str(uuid4()),
            "timestamp": now(),
            "message": None,
            "data": None,
        } | state
        kept["name"] = kept.get("name") or kept["type"].capitalize()
        kept["state_details"] = state.get("state_details") or {}
        run |= {
            "state": kept,
            "state_id": kept["id"],
            "state_type": kept["type"],
            "state_name": kept["name"],
            "updated": now(),
        }
        if kept["type"] == "RUNNING" and run["start_time"] is None:
            run["start_time"] = kept["timestamp"]
        run["end_time"] = kept["timestamp"] if kept["type"] in _FINAL else None
        self.states[run["id"]].append(kept)

    def _refusal(self, run: Json, proposed: Json) -> Json | None:
        before, kind = run["state"], proposed["type"]
        details = before["state_details"]
        if before["type"] in _FINAL and kind in {"CANCELLING", "PAUSED", "CRASHED"}:
            return aborted(f"Run is already in terminal state {before['type']}.")
        if kind == "PAUSED" and before["type"] != "RUNNING":
            why = "Cannot suspend flows that are not currently running."
            return rejected(before, why)
        if kind == "PAUSED":
            if proposed["state_details"]["pause_key"] in run["empirical_policy"]["pause_keys"]:
                return rejected(before, "This suspend has already fired.")
            if run["deployment_id"] is None:
                return aborted("Cannot suspend flows without a deployment.")
        elif before["type"] == "PAUSED" and kind != "CANCELLING":
            until = details.get("pause_timeout")
            if until and time_of(until) < datetime.now(UTC):
                name = (proposed.get("name") or kind).lower()
                message = f"The flow was {name} and never resumed."
                self._keep(run, {"type": "FAILED", "message": message})
                return rejected(run["state"], "The flow run has timed out.")
        return None

    def make_run(self, body: Json, *, deployment_id: str | None, state: Json) -> Json:
        """A new run in its first state."""
        policy = {"pause_keys": [], "resuming": False} | (body.get("empirical_policy") or {})
        run = new_record(
            name=body.get("name") or f"run-{len(self.runs) + 1}",
            flow_id=body["flow_id"],
            deployment_id=deployment_id,
            parameters=body.get("parameters") or {},
            tags=sorted(body.get("tags") or []),
            labels={},
            idempotency_key=body.get("idempotency_key"),
            parent_task_run_id=None,
            work_queue_name=None,
            run_count=0,
            start_time=None,
            end_time=None,
        )
        run["expected_start_time"] = state["state_details"].get("scheduled_time") or now()
        run["empirical_policy"] = policy | {"pause_keys": [], "resuming": False}
        self.runs[run["id"]], self.states[run["id"]] = run, []
        self._keep(run, state)
        return run

    def find(self, records: dict[str, Json], key: str) -> Json:
        """A record by its id.

        Raises:
            RefusedCallError: there is none with this id.
        """
        if key not in records:
            raise RefusedCallError(404, "Not found")
        return records[key]

    def latest(self) -> list[Json]:
        """The newest artifact of each key, as a collection."""
        newest = {one["key"]: one for one in self.artifacts.values() if one["key"]}
        return [one | {"latest_id": one["id"]} for one in newest.values()]


def rejected(state: Json, reason: str) -> Json:
    """The answer to a proposed state when the run keeps or gets another one."""
    details = {"type": "reject_details", "reason": reason}
    return {"status": "REJECT", "state": state, "details": details}


def aborted(reason: str) -> Json:
    """The answer to a proposed state when the transition is not allowed."""
    return {
        "status": "ABORT",
        "state": None,
        "details": {"type": "abort_details", "reason": reason},
    }
