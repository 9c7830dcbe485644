"""Is a record what was written? One changed byte is found, and the entry named.

A chain proves that nothing inside it was changed. Somebody who can write the whole file can write
a whole new chain, so compare the hash of the `attached` entry with the copies elsewhere: the
workspace's tag and the run's report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from cmek.canonical import canonical_json
from cmek.evidence.chain import Chain, Seal
from cmek.evidence.entry import GENESIS, EvidenceEntry

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Broken:
    """Something was changed; this is the first place."""

    line: int
    """Counted from 1; it is the entry's number too."""
    where: str
    """`entry 3 (plan attach-1-1)`, `line 3` when that can't be read, or `the seal`."""
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class BrokenEvidenceError(Exception):
    """A record that does not verify; the message names the place."""


def verify(record: bytes | str) -> Chain | Broken:
    """Check a whole record: its chain when nothing was changed, else the first broken place."""
    data = record.encode("utf-8", "surrogatepass") if isinstance(record, str) else record
    *lines, rest = data.split(b"\n")
    if rest or not lines:
        return Broken(len(lines) + 1, "the seal", "the record does not end with a sealed line")
    *entry_lines, seal_line = lines
    entries = _entries(entry_lines)
    if isinstance(entries, Broken):
        return entries
    chain = Chain(entries)
    problem = _seal_problem(seal_line, chain)
    return Broken(len(lines), "the seal", problem) if problem else chain


def loads(record: bytes | str) -> Chain:
    """The chain of a record that verifies.

    Raises:
        BrokenEvidenceError: It does not.
    """
    verdict = verify(record)
    if isinstance(verdict, Broken):
        raise BrokenEvidenceError(str(verdict))
    return verdict


def _entries(lines: Sequence[bytes]) -> list[EvidenceEntry] | Broken:
    entries: list[EvidenceEntry] = []
    previous, seen = GENESIS, set[tuple[str, str, str]]()
    for number, line in enumerate(lines, 1):
        entry = _read(line, EvidenceEntry)
        if isinstance(entry, str):
            return Broken(number, f"line {number}", entry)
        problem = _problem(entry, number, previous)
        if not problem and entry.identity in seen:
            problem = "the same event is recorded twice"
        if problem:
            return Broken(number, f"entry {number} ({entry.kind} {entry.subject})", problem)
        entries.append(entry)
        previous = entry.hash
        seen.add(entry.identity)
    return entries


def _problem(entry: EvidenceEntry, number: int, previous: str) -> str | None:
    if entry.computed_hash != entry.hash:
        return "its hash does not fit its content"
    if entry.number != number:
        return f"number {entry.number} stands at place {number}"
    if entry.previous != previous:
        return "it is not chained to the entry before it"
    return None


def _seal_problem(line: bytes, chain: Chain) -> str | None:
    seal = _read(line, Seal)
    if isinstance(seal, str):
        return seal
    if seal != Seal(entries=len(chain.entries), head=chain.head):
        return f"it seals {seal.entries} entries up to {seal.head[:12]}…, which is not what is here"
    return None


def _read(line: bytes, kind: type[T]) -> T | str:
    try:
        value = kind.model_validate_json(line)
        written = canonical_json(value)
    except ValueError:  # not that shape, or without a canonical form
        return "it can't be read"
    return value if written == line else "it is not written in the canonical form"
