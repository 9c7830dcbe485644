"""The chain: append, write, read back.

As text it is one canonical JSON object a line, and a last line that seals number and head, so
that a file that lost its end is found out too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import ConfigDict

from cmek.canonical import canonical_json
from cmek.evidence.entry import GENESIS, Event, EvidenceEntry, Hash
from cmek.evidence.redaction import without_secrets
from cmek.models import FrozenModel


class Seal(FrozenModel):
    """The last line of a record."""

    model_config = ConfigDict(extra="forbid")

    cmek_evidence: Literal[1] = 1
    """Version of the format."""
    entries: int
    head: Hash


class Chain:
    """Entries in order. Appending the same event of the same run again changes nothing."""

    def __init__(self, entries: Iterable[EvidenceEntry] = ()) -> None:
        self._entries = list(entries)
        self._known = {entry.identity: entry for entry in self._entries}

    @property
    def entries(self) -> tuple[EvidenceEntry, ...]:
        """All entries, the oldest first."""
        return tuple(self._entries)

    @property
    def head(self) -> str:
        """Hash of the last entry."""
        return self._entries[-1].hash if self._entries else GENESIS

    def append(self, event: Event, *, run: str, at: datetime) -> EvidenceEntry:
        """Add an event, or return the entry that it already has: the first telling stays.

        Args:
            event: What happened; what looks like a credential in it is left out.
            run: Id of the flow run.
            at: When, with a time zone.
        """
        known = self._known.get((run, event.kind, event.subject))
        if known is not None:
            return known
        clean = event.model_copy(update={"body": without_secrets(event.body)})
        entry = EvidenceEntry.seal(len(self._entries) + 1, at, run, clean, self.head)
        self._entries.append(entry)
        self._known[entry.identity] = entry
        return entry

    def dumps(self) -> str:
        """The record as text."""
        seal = Seal(entries=len(self._entries), head=self.head)
        lines = [canonical_json(one).decode() for one in (*self._entries, seal)]
        return "\n".join(lines) + "\n"
