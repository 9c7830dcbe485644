"""Outside text in Markdown, made harmless.

Prefect's two UIs render Markdown, and one of them HTML, so a workspace's name or a comment could
otherwise draw a table, a link or a heading that the approver takes for ours. Both understand
backslashes and the named entities; one shows numeric entities as they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from cmek.plain_text import plain

_ACTIVE = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")
_LINK = re.compile(r"(?=://)|(?<=www)(?=\.)", re.IGNORECASE)
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
