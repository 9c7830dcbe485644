"""The gateway's journal: what it intended to attach, and the outcome. One SQLite file.

An intent is on the disk before its request is sent, the outcome is written after. A nonce is valid
once: it can be used again only if it is certain that nothing was sent, or that Anthropic refused.
The journal is a second record, independent of the evidence that the flow keeps.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from threading import Lock
from typing import Final

from cmek.errors import CmekError
from cmek.models import FrozenModel


class JournalError(CmekError):
    """The journal can't be read or written, so nothing is attached."""


class NonceUsedError(CmekError):
    """This approval was used before."""


class IntentOutcome(StrEnum):
    """The outcome of an intent."""

    ATTACHED = "attached"
    REFUSED = "refused"
    """Certainly without effect: not sent, or refused by Anthropic."""
    UNKNOWN = "unknown"
    """Perhaps sent, and no read has shown its effect so far. Never sent again."""


class Intent(FrozenModel):
    """One attach or create that approvers have signed, as it was verified."""

    nonce: str
    run_id: str
    workspace: str
    """The id, or `new:NAME` for a create."""
    external_key_id: str
    key_name: str
    plan_digest: str
    approvers: tuple[str, ...]
    """Each with type and fingerprint of the SSH key that signed."""
    signed_approvals: str
    """The statements and their signatures, byte for byte."""


class JournalEntry(Intent):
    """An intent and its outcome."""

    number: int
    intended_at: datetime
    settled_at: datetime | None
    outcome: IntentOutcome | None
    """None while the attach is under way, or if the gateway died during it."""
    workspace_id: str | None
    request_id: str | None


# the index `one_use` lets SQLite itself refuse a nonce that was used, even by two requests at once
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS attaches (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    nonce TEXT NOT NULL,
    run_id TEXT NOT NULL,
    workspace TEXT NOT NULL,
    external_key_id TEXT NOT NULL,
    key_name TEXT NOT NULL,
    plan_digest TEXT NOT NULL,
    approvers TEXT NOT NULL,
    signed_approvals TEXT NOT NULL,
    intended_at TEXT NOT NULL,
    settled_at TEXT,
    outcome TEXT,
    workspace_id TEXT,
    request_id TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS one_use ON attaches (nonce)
    WHERE outcome IS NULL OR outcome <> 'refused';
"""
_INSERT: Final = (
    "INSERT INTO attaches (nonce, run_id, workspace, external_key_id, key_name, plan_digest,"
    " approvers, signed_approvals, intended_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SETTLE: Final = (
    "UPDATE attaches SET outcome = ?, settled_at = ?, workspace_id = ?, request_id = ?"
    " WHERE number = ?"
)
_UNSETTLED: Final = (
    "NOT EXISTS (SELECT 1 FROM attaches AS later WHERE later.workspace = attaches.workspace"
    " AND later.number > attaches.number AND later.outcome = ?)"
    " AND (outcome IS NULL OR outcome = ?) ORDER BY number"
)


class Journal:
    """Open for the life of the gateway; every method is one transaction that is on the disk."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it where it is missing.

        Raises:
            JournalError: It can't be opened or written.
        """
        self._path = path
        self._lock = Lock()
        with self._errors():
            # autocommit: each statement is its own transaction
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            # each commit waits for the disk; with WAL, NORMAL would not
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def begin(self, intent: Intent, *, now: datetime) -> int:
        """Write an intent and return its number.

        Raises:
            NonceUsedError: The approval was used before; says with which outcome.
            JournalError: It is not on the disk.
        """
        values = (
            intent.nonce,
            intent.run_id,
            intent.workspace,
            intent.external_key_id,
            intent.key_name,
            intent.plan_digest,
            json.dumps(intent.approvers),
            intent.signed_approvals,
            now.isoformat(),
        )
        with self._errors():
            try:
                return int(self._connection.execute(_INSERT, values).lastrowid or 0)
            except sqlite3.IntegrityError:
                before = self._select("nonce = ? ORDER BY number DESC LIMIT 1", intent.nonce)
        outcome = before[0].outcome or "under way" if before else "under way"
        raise NonceUsedError(f"this approval was used before, outcome: {outcome}; it counts once")

    def settle(
        self,
        number: int,
        outcome: IntentOutcome,
        *,
        now: datetime,
        workspace_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Write the outcome of an intent.

        Raises:
            JournalError: It is not on the disk; the next start settles the intent by reading.
        """
        with self._errors():
            values = (outcome, now.isoformat(), workspace_id, request_id, number)
            self._connection.execute(_SETTLE, values)

    def unsettled(self) -> tuple[JournalEntry, ...]:
        """Intents without a certain outcome, oldest first.

        A later attach for the same workspace settles an intent. An earlier one does not: the name
        of a created workspace can be used again.
        """
        with self._errors():
            return self._select(_UNSETTLED, IntentOutcome.ATTACHED, IntentOutcome.UNKNOWN)

    def of_run(self, run_id: str) -> tuple[JournalEntry, ...]:
        """All intents of a flow run, oldest first."""
        with self._errors():
            return self._select("run_id = ? ORDER BY number", run_id)

    def latest_time(self) -> datetime:
        """The latest time of any entry: it is never earlier than that, whatever the clock says."""
        with self._errors():
            row = self._connection.execute(
                "SELECT max(max(intended_at), max(coalesce(settled_at, ''))) FROM attaches"
            ).fetchone()
        return datetime.fromisoformat(row[0]) if row[0] else datetime.min.replace(tzinfo=UTC)

    def _select(self, where: str, *values: str) -> tuple[JournalEntry, ...]:
        rows = self._connection.execute(f"SELECT * FROM attaches WHERE {where}", values)  # noqa: S608 - fixed texts
        return tuple(
            JournalEntry.model_validate({**dict(row), "approvers": json.loads(row["approvers"])})
            for row in rows
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Hold the lock, and turn what SQLite raises into a JournalError."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise JournalError(f"journal {self._path}: {error}; nothing is attached") from error
            except OSError as error:
                raise JournalError(f"journal {self._path}: {error.strerror}") from error
