"""Outside text in Markdown, made harmless.

Prefect's UI renders Markdown and some HTML, so a workspace's name or a comment could otherwise
draw a table, a link or a heading that the approver takes for ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_ACTIVE = re.compile(r"([\\`*_{}\[\]()#+!|~$@:/-])")


def escape(text: object) -> str:
    """`text` on one line, with everything that Markdown or HTML would interpret disarmed."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _ACTIVE.sub(lambda m: f"&#{ord(m.group(1))};", line)


def code(text: object) -> str:
    """`text` as an inline code span; only for text that we check or make, still disarmed."""
    line = " ".join(str(text).split()).replace("`", "'").replace("|", "¦").replace("<", "‹")
    return f"`{line}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells must be escaped already."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
