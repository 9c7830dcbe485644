"""The record as a page for people, with the record itself inside, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cmek.evidence.chain import Chain
from cmek.evidence.queries import Query, queries_of
from cmek.evidence.verify import BrokenEvidenceError
from cmek.markdown import code, escape, table

_HOW: Final = (
    "Each entry carries the hash of the one before it. `cmek evidence export` writes the record to "
    "a file, `cmek evidence verify` finds a changed byte."
)
# A line of the record starts with a brace, so nothing in it can end the fence.
_RECORD: Final = re.compile(r"^```jsonl\n((?:\{.*\n)+)```$", re.MULTILINE)


def evidence_page(workspace_id: str, chain: Chain) -> str:
    """Markdown: the entries at a glance, where else to look, and the record."""
    parts = [
        f"# Evidence for {code(workspace_id)}",
        _HOW,
        table(
            ("", "when", "what", "on", "hash"),
            (
                (
                    str(entry.number),
                    f"{entry.at:%Y-%m-%d %H:%M:%S %Z}",
                    escape(entry.kind),
                    escape(entry.subject),
                    code(entry.hash[:12]),
                )
                for entry in chain.entries
            ),
        ),
        *_outside(queries_of(chain)),
        "## The record",
        f"```jsonl\n{chain.dumps()}```",
    ]
    return "\n\n".join(parts)


def record_in(page: str) -> str:
    """The record out of a page.

    Raises:
        BrokenEvidenceError: There is none, or more than one.
    """
    found = _RECORD.findall(page)
    if len(found) != 1:
        raise BrokenEvidenceError("the page does not hold exactly one record")
    return str(found[0])


def _outside(queries: Sequence[Query]) -> list[str]:
    parts = ["## Where else to look"] if queries else []
    for query in queries:
        linked = f" ([open]({query.link}))" if query.link else ""
        parts += [f"**{query.title}**{linked}. {query.needs}", f"```sh\n{query.command}\n```"]
    return parts
