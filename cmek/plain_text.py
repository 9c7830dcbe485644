"""Text of the outside world, made harmless for people, one function a medium.

Names of workspaces, comments, error texts and forged records may hold sequences that steer a
terminal, or marks that reverse or hide what is read.
`plain` and `shortened` are for one line anywhere, `escape`, `code` and `table` for Markdown;
`cli/terminal.py` has the functions for terminals.

Prefect's two UIs render Markdown, and one of them HTML, so a workspace's name or a comment could
otherwise draw a table, a link or a heading that the approver takes for ours. Both understand
backslashes and the named entities; one shows numeric entities as they stand.

Source: UTS 39 and UAX 31 (default-ignorable code points).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

HIDDEN: Final = "\N{REPLACEMENT CHARACTER}"
"""Stands for each character that would not be seen, so that its presence is."""

_IGNORABLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)
"""Default-ignorable, or blank, and yet printable to Python."""
_MARKS: Final = 3
"""Of one letter; more pile up until they cover the lines above and below."""
_BLANK: Final = re.compile(r"\s+")


def plain(text: object, *, lines: bool = False) -> str:
    """`text` without control, bidirectional and invisible characters; each is shown as `HIDDEN`.

    Args:
        text: Anything; its `str`.
        lines: Whether line breaks stay; otherwise the text becomes one line.
    """
    given = str(text).replace("\r\n", "\n").replace("\t", " ")
    if not lines:
        given = _BLANK.sub(" ", given).strip()
    seen = "".join(c if c.isprintable() or (lines and c == "\n") else HIDDEN for c in given)
    return _unstacked(_IGNORABLE.sub(HIDDEN, seen))


def _unstacked(text: str) -> str:
    if text.isascii():
        return text
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character).startswith("M") else 0
        if marks <= _MARKS:
            kept.append(character)
    return "".join(kept)


def shortened(text: object, limit: int) -> str:
    """`plain` text of at most `limit` characters; says how many were left out."""
    shown = plain(text)
    if len(shown) <= limit:
        return shown
    return f"{shown[:limit].rstrip()}… ({len(shown) - limit} more characters)"


_ACTIVE: Final = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
_LINK: Final = re.compile(r"(?=://)|(?<=www)(?=\.)", re.IGNORECASE)
NO_LINK: Final = "\u200b"
"""Our own zero width space, which keeps an address from becoming a link; a terminal drops it."""


def escape(text: object) -> str:
    """`text` on one line, with everything that Markdown or HTML would interpret disarmed."""
    line = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # an address would become a link even behind a backslash, so its scheme is cut off
    return _ACTIVE.sub(r"\\\1", _LINK.sub(NO_LINK, line))


def code(text: object) -> str:
    """`text` as an inline code span; only for text that we check or make, still disarmed."""
    line = plain(text).replace("`", "'").replace("|", "¦").replace("<", "‹")
    return f"`{line}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells must be escaped already."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
