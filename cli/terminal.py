"""What the commands share when they print: consoles, and outside text made harmless."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from cmek.plain_text import NO_LINK, plain

_FILE_WIDTH: Final = 120
STATUS_STYLES: Final = {"fail": "bold red", "unknown": "yellow", "warn": "yellow", "pass": "green"}
"""Of a check, worst first."""


def new_console(*, stderr: bool = False) -> Console:
    """A console of the terminal's width, or of a fixed one when it is written to a file."""
    # no emoji for `:name:` and no colour for numbers: text is shown as it is
    console = Console(stderr=stderr, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def is_interactive(console: Console) -> bool:
    """Whether a person can be asked: both the input and this console are a terminal."""
    return console.is_terminal and sys.stdin.isatty()


def show_rows(console: Console, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table if every cell fits on one line, else one block per row; cells may have markup.

    Nothing is cut or wrapped, so that ids, addresses and commands can be copied.
    """
    cells = [tuple(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(title, no_wrap=True)
    for row in cells:
        table.add_row(*row)
    needed = console.measure(table, options=console.options.update(width=_NO_LIMIT)).maximum
    if needed <= console.width and not any("\n" in cell for row in cells for cell in row):
        console.print(table)
        return
    for first, second, *rest in cells:
        console.print(f"{first} [bold]{second}[/]", soft_wrap=True)
        for title, cell in zip(titles[2:], rest, strict=True):
            for line in cell.splitlines():
                console.print(f"  {title}: {line}", soft_wrap=True)


_NO_LIMIT: Final = 100_000
_BRACKET: Final = re.compile(r"(\\*)(\[[a-z#/@][^[]*?\]|\[)")


def printable(text: object) -> str:
    """Outside text for rich: plain, and not read as markup.

    Rich's own `escape` loses backslashes before brackets, and one at the end opens our next tag.
    """

    def escaped(match: re.Match[str]) -> str:
        slashes, bracket = match.groups()
        return slashes * (2 if len(bracket) > 1 else 1) + "\\" + bracket

    shown = _BRACKET.sub(escaped, plain(text, lines=True))
    return shown + " " if shown.endswith("\\") else shown


def show_markdown(console: Console, text: str) -> None:
    """Print a page or a report; nothing is cut or wrapped, so its commands can be copied."""
    console.print(markdown(text), soft_wrap=True)


def markdown(text: str) -> RenderableType:
    """A plan or a report, of which nothing is cut off; `show_markdown` does not wrap it either."""
    from cli._markdown import FoldingMarkdown  # noqa: PLC0415 - a fifth of what `--help` imports

    return FoldingMarkdown(plain(text.replace(NO_LINK, ""), lines=True))
