"""Text from outside, made safe to show; each medium has its own function.

Names of workspaces, comments, error texts and forged records may contain control sequences of a
terminal, or characters that reverse or hide text.
`plain` and `shortened` are for one line in any medium, `escape`, `code` and `table` for Markdown;
`cli/terminal.py` has the functions for terminals.

Prefect's two UIs render Markdown, and one of them HTML. Without escapes a workspace's name or a
comment could draw a table, a link or a heading that looks like ours. Both UIs understand
backslashes and named entities; one of them does not decode numeric entities.

Source: UTS 39 and UAX 31 (default-ignorable code points).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

HIDDEN: Final = "\N{REPLACEMENT CHARACTER}"
"""Replaces each invisible character, so that a reader sees that there is one."""

_IGNORABLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U00016fe4\U0001d159\U000e0100-\U000e01ef]"
)
"""Invisible (default-ignorable) or blank characters that Python's `isprintable` accepts."""
_MARKS: Final = 3
"""Most combining marks on one letter: a pile of them covers the lines above and below."""
_BLANK: Final = re.compile(r"\s+")


def plain(text: object, *, lines: bool = False) -> str:
    """`text` without control, bidirectional and invisible characters; each is shown as `HIDDEN`.

    Args:
        text: Anything; its `str` is used.
        lines: Whether to keep line breaks; otherwise the text becomes one line.
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
    """`plain` text, cut to `limit` characters; what follows says how many were left out."""
    shown = plain(text)
    if len(shown) <= limit:
        return shown
    return f"{shown[:limit].rstrip()}… ({len(shown) - limit} more characters)"


_ACTIVE: Final = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
_LINK: Final = re.compile(r"(?=://)|(?<=www)(?=\.)", re.IGNORECASE)
NO_LINK: Final = "\u200b"
"""A zero width space that we add ourselves, so that an address does not become a link; the
functions for terminals remove it."""


def escape(text: object) -> str:
    """`text` on one line, with everything escaped that Markdown or HTML would interpret."""
    line = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # a backslash does not prevent the automatic link of an address, so the address is split
    return _ACTIVE.sub(r"\\\1", _LINK.sub(NO_LINK, line))


def code(text: object) -> str:
    """`text` as an inline code span. It replaces characters, so use it for names and commands.

    The replacements mean nothing to a shell. An apostrophe would end a quoted argument, so that
    what follows in a member's name would be executed by whoever pastes the command.
    """
    line = plain(text).replace("`", "ˋ").replace("|", "¦").replace("<", "‹")
    return f"`{line}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells must be escaped already."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list; text from outside must be escaped already."""
    return "\n".join(f"- {line}" for line in lines)
