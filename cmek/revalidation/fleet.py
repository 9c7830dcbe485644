"""All keys for people: one table, and an overview of the keys with problems. Pure.

Both begin with the worst key, and show the last days of each. The table is for programs and for
`cmek status`. The overview is for the browser: a person should see in five seconds how many keys
have problems, which, and since when. So all keys that were always healthy are one line of text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from sys import intern
from typing import Annotated, Any, Final, Self

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from cmek.errors import listed
from cmek.keys.history import SIGNS, shown_time
from cmek.keys.verdicts import CLOCKS_DIFFER, Health, KeyRecord
from cmek.plain_text import code, escape, shortened, table

FLEET: Final = "cmek-fleet"
"""Key of the artifact that holds the table of all keys."""
Warn = Callable[[str], object]
"""Receives a warning about a damaged table: a method of a logger or of a console."""
DAYS: Final = 30
SHOWN_KEYS: Final = 50
LONGEST_REASON: Final = 160
OVERDUE: Final = timedelta(hours=26)
"""Age from which a verdict is not current: a day and two hours, as in the automation `cmek:
revalidation did not run`."""


MARKS: Final = {
    Health.HEALTHY: "·",
    Health.AT_RISK: "▲",
    Health.UNKNOWN: "?",
    Health.BROKEN: "✖",
}
"""One mark for each day, from best to worst, in the order of `Health`."""
_VERDICTS: Final = {sign: verdict for verdict, sign in SIGNS.items()}
_HEALTHY: Final = MARKS[Health.HEALTHY]
_NOT_CHECKED: Final = "_"
_BADNESS: Final = _NOT_CHECKED + "".join(MARKS.values())
_TIME: Final = "%Y-%m-%d %H:%M"
_BETWEEN: Final = re.compile(r"(?<=\)), ")
_MORE: Final = re.compile(r" and \d+ more$")
_NOT_REGISTERED: Final = (
    "A workspace had it, and it is not registered: is this the credential of its organization? "
    "If that is meant, check it by name with Record anew"
)
_ANEW: Final = "The next full revalidation of all keys publishes it anew"


# slots: a run keeps one row for each key, and a Pydantic model would take three times the memory
@dataclass(frozen=True, slots=True, config=ConfigDict(populate_by_name=True))
class FleetRow:
    """One key in the table; the aliases are the names of the columns."""

    verdict: Annotated[str, Field(alias="Verdict")]
    why: Annotated[str, Field(alias="Why")]
    time_left: Annotated[str, Field(alias="Time left")]
    since: Annotated[str, Field(alias="Since")]
    workspaces: Annotated[str, Field(alias="Workspaces")]
    days: Annotated[str, Field(alias=f"Last {DAYS} days")]
    checked: Annotated[str, Field(alias="Checked")]
    key_name: Annotated[str, Field(alias="Key")]
    external_key_id: Annotated[str, Field(alias="External key")]

    @classmethod
    def of(cls, record: KeyRecord, before: Self | None) -> Self:
        """The row for a new check, with the days of the previous row."""
        left = record.final_at - record.checked_at if record.final_at else None
        return cls(
            verdict=SIGNS[record.verdict],
            key_name=record.key_name,
            workspaces=listed(record.workspaces, most=3),  # `_BETWEEN` and `_MORE` undo it
            why=shortened(record.worst.says, LONGEST_REASON) if record.worst else "",
            # interned: these texts are equal for most keys, and all rows stay in memory
            since=intern(record.since.strftime(_TIME)),
            time_left=shown_time(max(left, timedelta(0))) if left is not None else "",
            checked=intern(record.checked_at.strftime(_TIME)),
            days=intern(_extend_history(before, record.checked_at.date(), MARKS[record.verdict])),
            external_key_id=record.external_key_id,
        )

    @property
    def level(self) -> Health:
        """The verdict as a value; `unknown` for a text that is not ours."""
        return _VERDICTS.get(self.verdict, Health.UNKNOWN)

    @property
    def checked_on(self) -> date:
        """The day of the last check; `days` ends with it."""
        return self.checked_at.date()

    @property
    def checked_at(self) -> datetime:
        """The time of the last check, to the minute."""
        return _moment(self.checked)

    def outdated(self, now: datetime) -> str | None:
        """Why the verdict is not a current one; None when it is."""
        age = now - self.checked_at
        if age > OVERDUE:
            return f"not checked for {shown_time(age)}"
        if -age > CLOCKS_DIFFER:
            return f"last checked at {self.checked} UTC, which is still to come: a wrong clock"
        return None

    def not_registered(self, now: datetime) -> FleetRow:
        """The row of an attached key that is no longer among the registered keys: unknown."""
        checked = now.strftime(_TIME)
        return replace(
            self,
            verdict=SIGNS[Health.UNKNOWN],
            why=_NOT_REGISTERED,
            since=self.since if self.why == _NOT_REGISTERED else checked,
            time_left="",
            checked=checked,
            days=_extend_history(self, now.date(), MARKS[Health.UNKNOWN]),
        )

    def marks_until(self, today: date) -> str:
        """One mark for each day, the last one for `today`."""
        return _shifted(self.days, (today - self.checked_on).days)


_ROW: Final = TypeAdapter(FleetRow)
_ROWS: Final = TypeAdapter(list[FleetRow])


def read_items(key: str, table: object, warn: Warn) -> list[Any]:
    """The items of a published table, unchecked; empty when the artifact holds no table.

    Args:
        key: Of the artifact.
        table: Its data; None when there is no artifact.
        warn: Receives a warning when it can't be read: anyone who may write to Prefect's API can
            have changed it.
    """
    # Prefect stores a table as text or as JSON
    try:
        items = json.loads(table) if isinstance(table, str) else table
    except (ValueError, RecursionError):
        items = table
    if isinstance(items, list):
        return items
    if table is not None:
        warn(f"the artifact {key} holds no table, so it is treated as empty. {_ANEW}")
    return []


def read_rows(table: object, warn: Warn) -> dict[str, FleetRow]:
    """Rows by external key, from the data of the artifact `FLEET`; `warn` as for `read_items`."""
    rows: dict[str, FleetRow] = {}
    unread = 0
    for item in read_items(FLEET, table, warn):
        try:
            row = _ROW.validate_python(item)
            for minute in (row.since, row.checked):
                _iso(minute)  # raises for a text that is not a time
        except ValueError:
            unread += 1
        else:
            rows[row.external_key_id] = row
    if unread:
        warn(f"{unread} rows of the artifact {FLEET} can't be read and are left out. {_ANEW}")
    return rows


def merged(
    before: Mapping[str, FleetRow],
    checked: Iterable[FleetRow],
    *,
    all_keys: bool,
    now: datetime,
) -> list[FleetRow]:
    """The new table, worst first. A check of all keys removes rows of keys that it did not check.

    A row of a later check, by another run, is kept. A row dated too far ahead of `now` comes from a
    wrong clock and is replaced: otherwise it would stay until that time.
    """
    new = {row.external_key_id: row for row in checked}
    latest = (now + CLOCKS_DIFFER).strftime(_TIME)
    later = {
        key: row
        for key, row in before.items()
        if key in new and new[key].checked < row.checked <= latest
    }
    return worst_first({**({} if all_keys else before), **new, **later}.values())


def worst_first(rows: Iterable[FleetRow]) -> list[FleetRow]:
    """Rows by verdict, worst first; of equal verdicts the oldest first."""
    return sorted(rows, key=lambda row: (-row.level.rank, row.since, row.key_name))


def published(rows: list[FleetRow]) -> str:
    """The table's data as JSON.

    In ASCII: a string with any other character takes twice the memory or more, and it is copied.
    """
    return _ROWS.dump_json(rows, by_alias=True, ensure_ascii=True).decode()


def facts(row: FleetRow, record: KeyRecord | None, now: datetime) -> dict[str, Any]:
    """A row for a program: ids, ISO times, and values instead of signs and words.

    Args:
        row: From the table, which every check updates.
        record: The key's last record, from a full check or from one with news; None without one.
        now: Decides whether the verdict is current.
    """
    # the row may be from a later check: a record with another verdict does not explain it
    current = record if record and record.verdict is row.level else None
    return {
        "external_key_id": row.external_key_id,
        "key_name": row.key_name,
        "verdict": row.level.value,
        "why": row.why,
        "since": _iso(row.since),
        "checked_at": _iso(row.checked),
        "current": row.outdated(now) is None,
        "final_at": current.final_at.isoformat() if current and current.final_at else None,
        "workspaces": list(users_of(row, record)),
        "reasons": [one.model_dump(mode="json") for one in current.reasons] if current else None,
    }


def users_of(row: FleetRow, record: KeyRecord | None) -> tuple[str, ...]:
    """The key's workspaces, from its record; without a record those that the row names."""
    if record is not None:
        return record.workspaces
    shown = _MORE.sub("", row.workspaces)
    return tuple(_BETWEEN.split(shown)) if shown else ()


def _moment(minute: str) -> datetime:
    return datetime.strptime(minute, _TIME).replace(tzinfo=UTC)


def _iso(minute: str) -> str:
    return _moment(minute).isoformat()


def counts(rows: Iterable[FleetRow]) -> dict[Health, int]:
    """How many keys have each verdict."""
    found = Counter(row.level for row in rows)
    return {verdict: found[verdict] for verdict in Health}


def shown_counts(found: Mapping[Health, int]) -> str:
    """How many keys have each verdict, in words, worst first."""
    return ", ".join(f"{found[one]} {one.replace('_', ' ')}" for one in reversed(Health))


def _extend_history(before: FleetRow | None, today: date, mark: str) -> str:
    """The marks with today's; the mark of a day is the worst verdict of that day."""
    if before is None:
        return (_NOT_CHECKED * (DAYS - 1)) + mark
    days = before.marks_until(today)
    return days[:-1] + max(days[-1], mark, key=_BADNESS.find)


def _shifted(days: str, by: int) -> str:
    kept = days[-DAYS:].rjust(DAYS, _NOT_CHECKED)
    return (kept + _NOT_CHECKED * min(max(by, 0), DAYS))[-DAYS:]


def overview(rows: Sequence[FleetRow], today: date, page_of: Callable[[str], str]) -> str:
    """Markdown: how many keys have which verdict, and each key with problems, with a link.

    Args:
        rows: Worst first.
        today: The last of the days.
        page_of: Gives the address of an external key's page.
    """
    found = counts(rows)
    signs = ", ".join(f"{found[one]} {SIGNS[one]}" for one in reversed(Health))
    troubled = [row for row in rows if _had_trouble(row, today)]
    shown = troubled[:SHOWN_KEYS]
    head = ("key", "health", "why", "since", "time left", f"last {DAYS} days")
    parts = [
        f"# {len(rows)} keys: {signs}",
        *([table(head, (_overview_row(row, today, page_of) for row in shown))] if shown else []),
        _rest(rows, troubled, shown),
    ]
    return "\n\n".join(parts)


def _overview_row(row: FleetRow, today: date, page_of: Callable[[str], str]) -> tuple[str, ...]:
    names = escape(row.workspaces or "no workspace")
    key = escape(row.key_name.rpartition("/")[2])
    return (
        f"[{names} · {key}]({page_of(row.external_key_id)})",
        row.verdict,
        escape(_why(row, today)),
        escape(row.since),
        escape(row.time_left),
        code(row.marks_until(today)),
    )


def _rest(rows: Sequence[FleetRow], troubled: Sequence[FleetRow], shown: Sequence[FleetRow]) -> str:
    fine = len(rows) - len(troubled)
    hidden = len(troubled) - len(shown)
    text = (
        f"{fine} of {len(rows)} keys were checked in time and had no trouble in these {DAYS} days"
    )
    return f"{text}; {hidden} more with trouble are in the table `{FLEET}`" if hidden else text


def _why(row: FleetRow, today: date) -> str:
    late = f"Last checked at {row.checked} UTC. " if _is_late(row, today) else ""
    return late + row.why


def _had_trouble(row: FleetRow, today: date) -> bool:
    marks = set(row.marks_until(today)) - {_HEALTHY, _NOT_CHECKED}
    return bool(marks) or _is_late(row, today)


def _is_late(row: FleetRow, today: date) -> bool:
    """Whether its last check was before yesterday; a check of other keys publishes it again."""
    return (today - row.checked_on).days > 1
