"""What people read about all keys: one table and a picture. Pure.

The table has the worst key first, each row with its last days. The picture has days from left to
right; a person should see in five seconds how many keys are in trouble, which, and since when, so
keys that were healthy all along are one line of text.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple, Self

import svg
from pydantic import ConfigDict, Field

from cmek.errors import listed
from cmek.keys.history import SIGNS, shown_time
from cmek.keys.verdicts import Health, KeyRecord
from cmek.models import FrozenModel
from cmek.plain_text import xml_text

FLEET: Final = "cmek-fleet"
"""Key of the artifact that holds the table of all keys."""
DAYS: Final = 30


class _Style(NamedTuple):
    word: str
    mark: str
    colour: str


_STYLES: Final = {
    Health.HEALTHY: _Style("healthy", "·", "#2e9d5b"),
    Health.AT_RISK: _Style("at risk", "▲", "#f0a020"),
    Health.UNKNOWN: _Style("unknown", "?", "#8a8f98"),
    Health.BROKEN: _Style("broken", "✖", "#d42a2a"),
}
"""From the best to the worst, as `Health` is."""
MARKS: Final = {verdict: style.mark for verdict, style in _STYLES.items()}
_VERDICTS: Final = {sign: verdict for verdict, sign in SIGNS.items()}
_COLOUR: Final = {style.mark: style.colour for style in _STYLES.values()}
_HEALTHY: Final = MARKS[Health.HEALTHY]
_NOT_CHECKED: Final = "_"
_BADNESS: Final = _NOT_CHECKED + "".join(MARKS.values())
_TIME: Final = "%Y-%m-%d %H:%M"


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
        """A row for a new check, with the days of the row before it."""
        worst, more = record.worst, len(record.reasons) - 1
        why = worst.rule + (f" {worst.subject}" if worst.subject else "") if worst else ""
        left = record.final_at - record.checked_at if record.final_at else None
        return cls(
            verdict=SIGNS[record.verdict],
            key_name=record.key_name,
            workspaces=listed(record.workspaces, most=3),
            why=f"{why} and {more} more" if more > 0 else why,
            since=record.since.strftime(_TIME),
            time_left=shown_time(max(left, timedelta(0))) if left is not None else "",
            checked=record.checked_at.strftime(_TIME),
            days=_extend_history(before, record.checked_at.date(), MARKS[record.verdict]),
            external_key_id=record.external_key_id,
        )

    @property
    def level(self) -> Health:
        """The verdict as a value; `unknown` when the text is none of ours."""
        return _VERDICTS.get(self.verdict, Health.UNKNOWN)

    @property
    def checked_on(self) -> date:
        """The day of the last check, on which `days` ends."""
        return datetime.strptime(self.checked, _TIME).date()  # noqa: DTZ007 - a day, in UTC

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
    before: Mapping[str, FleetRow], checked: Iterable[FleetRow], *, all_keys: bool
) -> list[FleetRow]:
    """Worst first. After a check of all keys, those that are no longer registered drop out.

    A row of a later check, which another run has made meanwhile, stays.
    """
    new = {row.external_key_id: row for row in checked}
    later = {
        key: row for key, row in before.items() if key in new and row.checked > new[key].checked
    }
    rows = {**({} if all_keys else before), **new, **later}
    return sorted(rows.values(), key=lambda row: (-row.level.rank, row.since, row.key_name))


def published(rows: Iterable[FleetRow]) -> list[dict[str, str]]:
    """The table's data."""
    return [row.model_dump(by_alias=True) for row in rows]


def counts(rows: Iterable[FleetRow]) -> dict[Health, int]:
    """How many keys have each verdict."""
    found = Counter(row.level for row in rows)
    return {verdict: found[verdict] for verdict in Health}


def _extend_history(before: FleetRow | None, today: date, mark: str) -> str:
    """The worst verdict of a day stays the day's mark."""
    if before is None:
        return (_NOT_CHECKED * (DAYS - 1)) + mark
    days = before.marks_until(today)
    return days[:-1] + max(days[-1], mark, key=_BADNESS.find)


def _shifted(days: str, by: int) -> str:
    kept = days[-DAYS:].rjust(DAYS, _NOT_CHECKED)
    return (kept + _NOT_CHECKED * min(max(by, 0), DAYS))[-DAYS:]


_EMPTY: Final = "#e8eaed"
SHOWN_KEYS: Final = 24
_IDS: Final = re.compile(r" \(wrkspc_[^)]*\)")
_CELL, _ROW, _LEFT, _TOP, _BARS = 18, 22, 300, 64, 90
_WIDTH: Final = _LEFT + DAYS * _CELL + 24


def picture(rows: Sequence[FleetRow], today: date) -> str:
    """The picture as SVG text, for rows that are ordered worst first."""
    troubled = [row for row in rows if _had_trouble(row, today)]
    shown = troubled[:SHOWN_KEYS]
    top = _TOP + _BARS + 24
    height = top + len(shown) * _ROW + 64
    elements: list[svg.Element] = [
        svg.Style(text="text { font-family: sans-serif }"),
        svg.Rect(width=_WIDTH, height=height, fill="#ffffff"),
        *_headline(rows),
        *_bars(rows, today),
        *(part for at, row in enumerate(shown) for part in _key(row, today, top + at * _ROW)),
        *_draw_days(today, top + len(shown) * _ROW + 14),
        _text(12, height - 14, _rest(rows, troubled, shown), size=13, fill="#5f6368"),
    ]
    return str(svg.SVG(width=_WIDTH, height=height, elements=elements))


def image_url(picture_text: str) -> str:
    """The picture inside its own address, so that nothing has to serve it."""
    return "data:image/svg+xml;base64," + b64encode(picture_text.encode()).decode()


def _headline(rows: Sequence[FleetRow]) -> list[svg.Element]:
    found = counts(rows)
    parts: list[svg.Element] = []
    x = 12
    for verdict in reversed(Health):
        style = _STYLES[verdict]
        label = f"{found[verdict]} {style.word}"
        fill = "#202124" if found[verdict] else "#b4b8bd"
        parts.append(svg.Rect(x=x, y=18, width=18, height=18, fill=style.colour, rx=3))
        parts += _sign(x + 9, 31, style.mark)
        parts.append(_text(x + 26, 34, label, size=20, fill=fill))
        x += 60 + 12 * len(label)
    return parts


def _bars(rows: Sequence[FleetRow], today: date) -> list[svg.Element]:
    """For each day one bar of all keys, the worst on top."""
    parts: list[svg.Element] = [_text(12, _TOP + 16, "all keys, by day", size=13, fill="#5f6368")]
    columns = zip(*(row.marks_until(today) for row in rows), strict=True)
    for day, marks in enumerate(columns):
        y = float(_TOP)
        for mark in reversed(_BADNESS):
            size = marks.count(mark) / len(marks) * _BARS
            # one key in a thousand must still be seen
            size = max(size, 3.0) if size and mark not in (_NOT_CHECKED, _HEALTHY) else size
            size = min(size, _TOP + _BARS - y)
            if size > 0:
                fill = _COLOUR.get(mark, _EMPTY)
                x = _LEFT + day * _CELL
                parts.append(svg.Rect(x=x, y=y, width=_CELL - 2, height=size, fill=fill))
                y += size
    return parts


def _key(row: FleetRow, today: date, y: int) -> list[svg.Element]:
    name = _IDS.sub("", row.workspaces) or row.key_name.rpartition("/")[2]
    label = name if len(name) <= 38 else name[:37] + "…"
    parts: list[svg.Element] = [_text(12, y + 14, label, size=13, fill="#202124")]
    for day, mark in enumerate(row.marks_until(today)):
        x, fill = _LEFT + day * _CELL, _COLOUR.get(mark, _EMPTY)
        parts.append(svg.Rect(x=x, y=y, width=_CELL - 2, height=_ROW - 4, fill=fill, rx=2))
        parts += _sign(x + _CELL / 2 - 1, y + 13, mark)
    return parts


def _sign(x: float, y: float, mark: str) -> list[svg.Element]:
    """The mark itself on what is not healthy, for whoever can't tell the colours apart."""
    if mark in (_HEALTHY, _NOT_CHECKED):
        return []
    return [svg.Text(x=x, y=y, text=mark, font_size=11, fill="#ffffff", text_anchor="middle")]


def _draw_days(today: date, y: int) -> list[svg.Element]:
    """A date under each seventh day, today's last."""
    return [
        _text(
            _LEFT + day * _CELL,
            y,
            "today" if day == DAYS - 1 else f"{today - timedelta(days=DAYS - 1 - day):%d %b}",
            size=12,
            fill="#5f6368",
        )
        for day in range((DAYS - 1) % 7, DAYS, 7)
    ]


def _rest(rows: Sequence[FleetRow], troubled: Sequence[FleetRow], shown: Sequence[FleetRow]) -> str:
    fine = len(rows) - len(troubled)
    hidden = len(troubled) - len(shown)
    text = f"{fine} of {len(rows)} keys had no trouble in these {DAYS} days"
    return f"{text}; {hidden} more with trouble are in the table" if hidden else text


def _had_trouble(row: FleetRow, today: date) -> bool:
    return bool(set(row.marks_until(today)) - {_HEALTHY, _NOT_CHECKED})


def _text(x: float, y: float, text: str, *, size: int, fill: str) -> svg.Text:
    return svg.Text(x=x, y=y, text=xml_text(text), font_size=size, fill=fill)
