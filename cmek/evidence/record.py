"""The record of an onboarding: entries that are chained by their hashes, as text, and verified.

The text has one canonical JSON object in each line, and a last line with the number of entries and
the last hash, so that a missing end is detected as well. A changed byte is detected, and the
message names the entry.

The chain proves that no entry was changed alone. Someone who can write the whole file can write a
new chain. So compare the hash of the `attached` entry with its copies: the workspace's tag and the
run's report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from cmek.canonical import canonical_json, digest
from cmek.errors import CmekError
from cmek.models import FrozenModel

GENESIS: Final = "0" * 64
"""The `previous` of the first entry."""

_SECRET: Final = re.compile(
    r"sk-ant-[A-Za-z0-9_-]{8,}"  # Anthropic keys
    r"|ya29\.[A-Za-z0-9_-]{8,}"  # Google access tokens
    r"|\b1//[A-Za-z0-9_-]{20,}"  # Google refresh tokens
    r"|AIza[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{8,}"  # Google API keys, client secrets
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web tokens
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
)
REMOVED: Final = "[credential removed]"

T = TypeVar("T", bound=BaseModel)
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Event(FrozenModel):
    """Something that happened in a run. Kind and subject identify it: a retry adds it only once."""

    kind: str
    subject: str
    body: JsonValue


class EvidenceEntry(FrozenModel):
    """An event in the chain: `hash` covers all other fields, `previous` is the entry before."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1)
    at: AwareDatetime
    run: str
    """Id of the flow run that recorded it."""
    kind: str
    subject: str
    body: JsonValue
    previous: Hash
    hash: Hash

    @property
    def identity(self) -> tuple[str, str, str]:
        """Identifies the entry, whenever it is recorded."""
        return self.run, self.kind, self.subject

    @property
    def computed_hash(self) -> str:
        """The value that `hash` must have."""
        return digest(self.model_dump(mode="json", exclude={"hash"}))

    @classmethod
    def chained(
        cls, number: int, at: AwareDatetime, run: str, event: Event, previous: str
    ) -> EvidenceEntry:
        """The entry for an event, with its hash."""
        fields = {"number": number, "at": at, "run": run, "previous": previous, "hash": GENESIS}
        # the hash is computed over the validated entry, as a reader computes it
        unsealed = cls.model_validate(fields | event.model_dump())
        return unsealed.model_copy(update={"hash": unsealed.computed_hash})


class Footer(FrozenModel):
    """The last line of a record."""

    model_config = ConfigDict(extra="forbid")

    cmek_evidence: Literal[1] = 1
    """Version of the format."""
    entries: int
    head: Hash


class Chain:
    """Entries in order. To append the same event of the same run again changes nothing."""

    def __init__(
        self, entries: Iterable[EvidenceEntry] = (), lines: Iterable[str] | None = None
    ) -> None:
        self._entries = list(entries)
        self._known = {entry.identity: entry for entry in self._entries}
        # lines that were read are kept: a run reads and writes its record at each step
        self._lines = list(map(_line, self._entries) if lines is None else lines)

    @property
    def entries(self) -> tuple[EvidenceEntry, ...]:
        """All entries, the oldest first."""
        return tuple(self._entries)

    @property
    def head(self) -> str:
        """Hash of the last entry; `GENESIS` without one."""
        return self._entries[-1].hash if self._entries else GENESIS

    def append(self, event: Event, *, run: str, at: datetime) -> EvidenceEntry:
        """Add an event, or return its existing entry, whose body stays.

        Args:
            event: What happened; text that looks like a credential is removed.
            run: Id of the flow run.
            at: The time, with a time zone.
        """
        known = self._known.get((run, event.kind, event.subject))
        if known is not None:
            return known
        # before the hash is made: a chained entry can't be cleaned any more
        clean = event.model_copy(update={"body": without_secrets(event.body)})
        entry = EvidenceEntry.chained(len(self._entries) + 1, at, run, clean, self.head)
        self._entries.append(entry)
        self._known[entry.identity] = entry
        self._lines.append(_line(entry))
        return entry

    def dumps(self) -> str:
        """The record as text."""
        footer = Footer(entries=len(self._entries), head=self.head)
        return "\n".join([*self._lines, _line(footer)]) + "\n"


class EvidenceIntegrityError(CmekError):
    """A record that does not verify.

    The message names the first wrong place: `entry 3 (plan attach-1-1)`, `line 3` when the line
    can't be read, or `the last line`.
    """


def loads(record: bytes | str) -> Chain:
    """Read and verify a record.

    Raises:
        EvidenceIntegrityError: It does not verify.
    """
    # `surrogatepass`: a damaged text must fail at its line below, not here with a UnicodeError
    data = record.encode("utf-8", "surrogatepass") if isinstance(record, str) else record
    *lines, rest = data.split(b"\n")
    if rest or not lines:
        raise EvidenceIntegrityError("the last line, with count and last hash, is missing")
    *entry_lines, last_line = lines
    chain = Chain(_entries(entry_lines), (line.decode() for line in entry_lines))
    if problem := _footer_problem(last_line, chain):
        raise EvidenceIntegrityError(f"the last line: {problem}")
    return chain


def _entries(lines: Sequence[bytes]) -> list[EvidenceEntry]:
    entries: list[EvidenceEntry] = []
    previous, seen = GENESIS, set[tuple[str, str, str]]()
    for number, line in enumerate(lines, 1):
        entry, fits = _read_entry(line)
        if isinstance(entry, str):
            raise EvidenceIntegrityError(f"line {number}: {entry}")
        problem = _problem(entry, number, previous, hash_fits=fits)
        if not problem and entry.identity in seen:
            problem = "the same event is recorded twice"
        if problem:
            where = f"entry {number} ({entry.kind} {entry.subject})"
            raise EvidenceIntegrityError(f"{where}: {problem}")
        entries.append(entry)
        previous = entry.hash
        seen.add(entry.identity)
    return entries


@lru_cache(maxsize=256)
def _read_entry(line: bytes) -> tuple[EvidenceEntry | str, bool]:
    """The entry, or why the line is not one; and whether its hash is right.

    Cached, since a run reads its record again at each step.
    """
    entry = _read(line, EvidenceEntry)
    return entry, isinstance(entry, EvidenceEntry) and entry.computed_hash == entry.hash


def _problem(entry: EvidenceEntry, number: int, previous: str, *, hash_fits: bool) -> str | None:
    if not hash_fits:
        return "its hash does not fit its content"
    if entry.number != number:
        return f"its number is {entry.number}, expected was {number}"
    if entry.previous != previous:
        return "it is not chained to the entry before it"
    return None


def _footer_problem(line: bytes, chain: Chain) -> str | None:
    footer = _read(line, Footer)
    if isinstance(footer, str):
        return footer
    if footer != Footer(entries=len(chain.entries), head=chain.head):
        known = f"{footer.entries} entries up to {footer.head[:12]}…"
        return f"it names {known}, which does not match the entries above it"
    return None


def _line(value: BaseModel) -> str:
    return canonical_json(value).decode()


def _read(line: bytes, kind: type[T]) -> T | str:
    try:
        value = kind.model_validate_json(line)
        written = canonical_json(value)
    except ValueError:  # not that shape, or without a canonical form
        return "it can't be read"
    # one form only: else bytes could be changed without changing the hash
    return value if written == line else "it is not written in the canonical form"


def without_secrets(value: JsonValue) -> JsonValue:
    """The same value with everything that looks like a credential replaced."""
    if isinstance(value, str):
        return _SECRET.sub(REMOVED, value)
    if isinstance(value, list):
        return [without_secrets(one) for one in value]
    if isinstance(value, dict):
        return {_SECRET.sub(REMOVED, name): without_secrets(one) for name, one in value.items()}
    return value
