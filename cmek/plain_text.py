"""Text of the outside world, made harmless for people, one function a medium.

Names of workspaces, comments, error texts and forged records may hold sequences that steer a
terminal, or marks that reverse or hide what is read.
`cmek/markdown.py` has the functions for pages, `cli/terminal.py` those for terminals.

Source: UTS 39 and UAX 31 (default-ignorable code points).
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "\N{REPLACEMENT CHARACTER}"
"""Stands for each character that would not be seen, so that its presence is."""

_IGNORABLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
"""Default-ignorable, or blank, and yet printable to Python."""
_STACKED: Final = re.compile("([\u0300-\u034e\u0350-\u036f]{3})[\u0300-\u036f]+")
"""Marks piled up until they cover the lines above and below."""
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
    return _STACKED.sub(r"\1", _IGNORABLE.sub(HIDDEN, seen))


def shortened(text: object, limit: int) -> str:
    """`plain` text of at most `limit` characters; says how many were left out."""
    shown = plain(text)
    if len(shown) <= limit:
        return shown
    return f"{shown[:limit].rstrip()}… ({len(shown) - limit} more characters)"
