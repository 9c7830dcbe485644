"""The evidence chain: any change is found and named, and retries add nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmek.evidence.record import (
    GENESIS,
    REMOVED,
    Chain,
    Event,
    EvidenceEntry,
    EvidenceIntegrityError,
    loads,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
EXACT = 2**53 - 1
"""Greater integers are refused: canonical JSON has none (test_canonical.py)."""
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers(-EXACT, EXACT) | st.floats(-EXACT, EXACT) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.builds(Event, kind=TEXT, subject=TEXT, body=BODIES)
STEPS = st.lists(EVENTS, min_size=1, max_size=5, unique_by=lambda e: (e.kind, e.subject))


def recorded(events: list[Event], run: str = "run-1") -> Chain:
    chain = Chain()
    for minute, event in enumerate(events):
        chain.append(event, run=run, at=NOON + timedelta(minutes=minute))
    return chain


def sample() -> bytes:
    events = [
        Event(kind="started", subject="wrkspc_01abcdef", body={"requested_by": "ada@example.com"}),
        Event(kind="write", subject="CreateCryptoKey k", body={"before": None, "after": {"a": 1}}),
        Event(kind="approval_response", subject="attach-1-1", body={"comment": "Zürich\nsagt ja"}),
        Event(kind="attached", subject="wrkspc_01abcdef", body=[1, "two", None, True]),
    ]
    return recorded(events).dumps().encode()


@given(STEPS)
def test_a_record_reads_back_as_it_was_written(events: list[Event]) -> None:
    """Writing and reading keep every entry, the order and the head."""
    chain = recorded(events)
    again = loads(chain.dumps())
    assert again.entries == chain.entries
    assert again.dumps() == chain.dumps()


def test_every_flipped_byte_is_found_in_the_entry_that_holds_it() -> None:
    """A flip of the lowest or the highest bit of any byte breaks the line that holds it."""
    record = sample()
    for place in range(len(record)):
        line = record[:place].count(b"\n") + 1
        for bit in (1, 128):
            changed = bytearray(record)
            changed[place] ^= bit
            is_last = line >= changed.count(b"\n")  # also if two lines have become one
            where = "the last line" if is_last else rf"(entry|line) {line}\b"
            with pytest.raises(EvidenceIntegrityError, match=f"^{where}"):
                loads(bytes(changed))


@given(STEPS, st.data())
def test_any_single_change_fails_verification(events: list[Event], data: st.DataObject) -> None:
    """Replacing, inserting or removing any range of bytes is found."""
    record = recorded(events).dumps().encode()
    start = data.draw(st.integers(0, len(record)))
    end = data.draw(st.integers(start, min(len(record), start + 40)))
    changed = record[:start] + data.draw(st.binary(max_size=40)) + record[end:]
    if changed != record:
        with pytest.raises(EvidenceIntegrityError):
            loads(changed)


@given(STEPS, st.data())
def test_any_change_of_whole_lines_fails_verification(
    events: list[Event], data: st.DataObject
) -> None:
    """Entries that are missing, doubled or in another order are found; so is a lost end."""
    lines = [f"{line}\n" for line in recorded(events).dumps().split("\n")[:-1]]
    shuffled = data.draw(st.lists(st.sampled_from(lines), max_size=len(lines) + 2))
    if shuffled != lines:
        with pytest.raises(EvidenceIntegrityError):
            loads("".join(shuffled))


@given(STEPS, st.lists(st.integers(0, 4), max_size=6))
def test_any_order_of_retries_yields_one_chain(events: list[Event], crashes: list[int]) -> None:
    """Runs that stop after any step and start again from the top record each event once.

    Times and bodies of a retry may differ: the first entry stays.
    """
    chain, minute = Chain(), count()
    first_hashes: list[str] = []
    for steps in (*crashes, len(events)):
        for event in events[:steps]:
            retried = event.model_copy(update={"body": {"at": next(minute), "of": event.body}})
            entry = chain.append(retried, run="run-1", at=NOON + timedelta(minutes=next(minute)))
            if entry.number > len(first_hashes):
                first_hashes.append(entry.hash)
        chain = loads(chain.dumps())
    assert [entry.hash for entry in chain.entries] == first_hashes
    assert [(e.kind, e.subject) for e in chain.entries] == [(e.kind, e.subject) for e in events]


def test_another_run_adds_its_own_events_to_the_same_chain() -> None:
    """The same event of another run is another entry, chained to the first run's last one."""
    event = Event(kind="started", subject="wrkspc_01abcdef", body=None)
    chain = recorded([event], run="run-1")
    first = chain.head
    before = chain.entries
    second = chain.append(event, run="run-2", at=NOON)
    assert (second.number, second.previous) == (2, first)
    assert chain.entries == (*before, second)


def test_a_forged_entry_with_a_correct_hash_still_breaks_the_chain() -> None:
    """A change of an entry and its hash requires a change of all later ones: the next is named."""
    chain = loads(sample())
    forged = chain.entries[1].model_copy(update={"body": "nothing to see"})
    forged = forged.model_copy(update={"hash": forged.computed_hash})
    entries = (chain.entries[0], forged, *chain.entries[2:])
    with pytest.raises(EvidenceIntegrityError, match=r"^entry 3 \(approval_response attach-1-1\):"):
        loads(Chain(entries).dumps())


@pytest.mark.parametrize(
    ("numbers", "subjects", "problem"),
    [
        ((1, 2), ("a", "a"), "recorded twice"),
        ((1, 3), ("a", "b"), "its number is 3, expected was 2"),
    ],
)
def test_a_chain_of_correct_hashes_must_be_consistent_too(
    numbers: tuple[int, ...], subjects: tuple[str, ...], problem: str
) -> None:
    """An event recorded twice, or a missing number, is refused even with correct hashes."""
    entries: list[EvidenceEntry] = []
    for number, subject in zip(numbers, subjects, strict=True):
        event = Event(kind="write", subject=subject, body=None)
        previous = entries[-1].hash if entries else GENESIS
        entries.append(EvidenceEntry.chained(number, NOON, "run-1", event, previous))
    with pytest.raises(EvidenceIntegrityError, match=problem):
        loads(Chain(entries).dumps())


@pytest.mark.parametrize(
    ("written", "rewritten"),
    [
        (b'{"at"', b'{ "at"'),
        (b'"started"', b'"\\u0073tarted"'),
        (b'"number":1', b'"number":1.0'),
        (b"12:00:00Z", b"12:00:00+00:00"),
        (b"\n", b"\r\n"),
    ],
)
def test_the_same_content_in_other_bytes_is_a_change(written: bytes, rewritten: bytes) -> None:
    """What a JSON reader takes as equal is still not what was written."""
    record = sample()
    assert written in record
    with pytest.raises(EvidenceIntegrityError, match=r"^(entry|line) 1\b"):
        loads(record.replace(written, rewritten, 1))


@pytest.mark.parametrize("text", ["", "\n", "{}\n", "[]", "\ud800\n", "[" * 100_000 + "\n"])
def test_what_is_no_record_is_refused(text: str) -> None:
    """Any text gives this typed error, never another exception."""
    with pytest.raises(EvidenceIntegrityError, match="the last line"):
        loads(text)


def test_an_empty_chain_is_a_record_too() -> None:
    assert loads(Chain().dumps()).head == GENESIS


@pytest.mark.parametrize(
    "secret",
    [
        "sk-ant-admin01-FAKE-NOT-A-REAL-KEY",
        "ya29.FAKE-NOT-A-REAL-TOKEN",
        "1//FAKE-NOT-A-REAL-REFRESH-TOKEN",
        "AIzaFAKE-NOT-A-REAL-API-KEY-00000000000",
        "GOCSPX-FAKE-NOT-A-REAL-CLIENT",
        "eyJGQUtFIjoxfQ.eyJGQUtFIjoxfQ.RkFLRQ",  # pragma: allowlist secret
        # pragma: allowlist nextline secret
        "-----BEGIN PRIVATE KEY-----\nRkFLRQ==\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nRkFLRQ==",  # pragma: allowlist secret
    ],
)
def test_what_looks_like_a_credential_never_enters_the_record(secret: str) -> None:
    """It is removed anywhere in an event's body, inside a comment and as a name."""
    body = {"comment": f"I used {secret} for it", "deep": [{secret: secret}]}
    record = recorded([Event(kind="approval_response", subject="a", body=body)]).dumps()
    assert secret.splitlines()[0] not in record
    assert record.count(REMOVED) == 3
    assert "I used" in record
