"""Markdown for the terminal that is never cut off.

With `soft_wrap=True` it is not wrapped either, so that commands, ids and addresses can be copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.containers import Renderables
from rich.markdown import BlockQuote, CodeBlock, ListItem, Markdown, MarkdownElement, TableElement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_NO_LIMIT: Final = 100_000
_BLANK: Final = Segment("   ")


class _Code(CodeBlock):
    """Code whose lines are printed as they are: rich's own wraps them and pads them with blanks."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.text.plain.rstrip(), style="markdown.code_block")


class _Item(ListItem):
    """A list item that is not cut: rich's own cuts each line at the width of the terminal."""

    def render_bullet(self, console: Console, options: ConsoleOptions) -> RenderResult:
        style = console.get_style("markdown.item.bullet")
        return _marked(self.elements, console, options, (Segment(" • ", style), _BLANK))

    def render_number(
        self, console: Console, options: ConsoleOptions, number: int, last_number: int
    ) -> RenderResult:
        width = len(str(last_number)) + 1
        mark = Segment(f"{number}".rjust(width) + " ", console.get_style("markdown.item.number"))
        return _marked(self.elements, console, options, (mark, Segment(" " * (width + 1))))


class _Quote(BlockQuote):
    """A quotation that is not cut, as with `_Item`."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = Segment("▌ ", self.style)
        return _marked(self.elements, console, options, (bar, bar))


def _marked(
    elements: Renderables, console: Console, options: ConsoleOptions, marks: tuple[Segment, Segment]
) -> Iterator[Segment]:
    """The elements, with a mark before the first of their lines and another before the rest."""
    mark, later = marks
    inside = options.update(width=options.max_width - mark.cell_length)
    for line in Segment.split_lines(console.render(elements, inside)):
        yield mark
        yield from line
        yield Segment.line()
        mark = later


class _FoldingTable(TableElement):
    """Folds a cell that does not fit; where nothing may be wrapped, prints a block per row."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
                wanted = console.measure(table, options=options.update(width=_NO_LIMIT)).maximum
                if options.overflow == "ignore" and wanted > options.max_width:
                    yield from self._blocks()
                    return
            yield table

    def _blocks(self) -> Iterator[Text]:
        titles = self.header.row.cells if self.header and self.header.row else []
        for row in self.body.rows if self.body else []:
            start = "• "
            for title, cell in zip(titles, row.cells, strict=True):
                if cell.content:
                    head = Text.assemble(title.content, ": ") if title.content else Text()
                    yield Text.assemble(start, head, cell.content)
                    start = "  "


class FoldingMarkdown(Markdown):
    """Rich's Markdown, but nothing is cut off."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "code_block": _Code,
        "fence": _Code,
        "blockquote_open": _Quote,
        "list_item_open": _Item,
        "table_open": _FoldingTable,
    }
