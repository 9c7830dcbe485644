"""One table for all keys, worst first, each row with its last days. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Final, Self

from pydantic import ConfigDict, Field

from cmek.health.model import KeyRecord, Verdict
from cmek.health.page import SIGNS, shown_time
from cmek.models import FrozenModel

DAYS: Final = 30
MARKS: Final = {
    Verdict.HEALTHY: "·",
    Verdict.AT_RISK: "▲",
    Verdict.UNKNOWN: "?",
    Verdict.BROKEN: "✖",
}
NOT_LOOKED: Final = "_"
_BADNESS: Final = NOT_LOOKED + "".join(MARKS[verdict] for verdict in Verdict)
_VERDICTS: Final = {sign: verdict for verdict, sign in SIGNS.items()}
_FORMAT: Final = "%Y-%m-%d %H:%M"


class FleetRow(FrozenModel):
    """One key in the table; the aliases are the table's columns."""

    model_config = ConfigDict(populate_by_name=True)

    verdict: str = Field(alias="Verdict")
    why: str = Field(alias="Why")
    time_left: str = Field(alias="Time left")
    since: str = Field(alias="Since")
    workspaces: str = Field(alias="Workspaces")
    days: str = Field(alias=f"Last {DAYS} days")
    checked: str = Field(alias="Checked")
    key_name: str = Field(alias="Key")
    external_key_id: str = Field(alias="External key")

    @classmethod
    def of(cls, record: KeyRecord, before: Self | None) -> Self:
        """A row for a new look, with the days of the row before it."""
        worst, more = record.worst, len(record.reasons) - 1
        why = worst.rule + (f" {worst.subject}" if worst.subject else "") if worst else ""
        left = record.final_at - record.checked_at if record.final_at else None
        return cls(
            verdict=SIGNS[record.verdict],
            key_name=record.key_name,
            workspaces=", ".join(record.workspaces),
            why=f"{why} and {more} more" if more > 0 else why,
            since=record.since.strftime(_FORMAT),
            time_left=shown_time(max(left, timedelta(0))) if left is not None else "",
            checked=record.checked_at.strftime(_FORMAT),
            days=_days(before, record.checked_at.date(), MARKS[record.verdict]),
            external_key_id=record.external_key_id,
        )

    @property
    def level(self) -> Verdict:
        """The verdict as a value; `unknown` when the text is none of ours."""
        return _VERDICTS.get(self.verdict, Verdict.UNKNOWN)

    @property
    def checked_on(self) -> date:
        """The day of the last look, on which `days` ends."""
        return datetime.strptime(self.checked, _FORMAT).date()  # noqa: DTZ007 - a day, in UTC

    def marks_until(self, today: date) -> str:
        """One mark a day, the last one for `today`."""
        return _shifted(self.days, (today - self.checked_on).days)


def read_rows(table: object) -> dict[str, FleetRow]:
    """Rows by external key, from a table that was published; what is not a row is left out."""
    rows: dict[str, FleetRow] = {}
    for item in table if isinstance(table, list) else ():
        try:
            row = FleetRow.model_validate(item)
            row.checked_on  # noqa: B018 - refuses a date that is none
        except ValueError:
            continue
        rows[row.external_key_id] = row
    return rows


def merged(
    before: Mapping[str, FleetRow], looked: Iterable[FleetRow], *, all_keys: bool
) -> list[FleetRow]:
    """Worst first. After a look at all keys, those that are registered no more drop out."""
    new = {row.external_key_id: row for row in looked}
    rows = new if all_keys else {**before, **new}
    return sorted(rows.values(), key=lambda row: (-row.level.rank, row.since, row.key_name))


def published(rows: Iterable[FleetRow]) -> list[dict[str, str]]:
    """The table's data."""
    return [row.model_dump(by_alias=True) for row in rows]


def counts(rows: Iterable[FleetRow]) -> dict[Verdict, int]:
    """How many keys have each verdict."""
    found = Counter(row.level for row in rows)
    return {verdict: found[verdict] for verdict in Verdict}


def _days(before: FleetRow | None, today: date, mark: str) -> str:
    """The worst verdict of a day stays the day's mark."""
    if before is None:
        return (NOT_LOOKED * (DAYS - 1)) + mark
    days = before.marks_until(today)
    return days[:-1] + max(days[-1], mark, key=_badness)


def _badness(mark: str) -> int:
    return _BADNESS.find(mark)


def _shifted(days: str, by: int) -> str:
    kept = days[-DAYS:].rjust(DAYS, NOT_LOOKED)
    return (kept + NOT_LOOKED * min(max(by, 0), DAYS))[-DAYS:]
