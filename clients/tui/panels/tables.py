"""The table list: thousands of tables, of which only the visible lines are drawn.

A virtual list (Textual's line API) over the tables of the newest view. A new view redraws
only the visible lines whose table changed. Names come from the database, so they pass `printable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from clients.presentation import figures
from clients.presentation.progress import Order, ordered, table_fraction
from clients.tui.cells import fit
from services.shared.model import TableProgress, TableState

_SYMBOLS = {TableState.WAITING: "○", TableState.COPYING: "●", TableState.COPIED: "✔"}
_PERCENT = 6
_ROWS = 15
_BYTES = 19


class TableList(ScrollView, can_focus=True):
    """Scrolls with the usual keys. The first line is a header that does not scroll."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tables--header",
        "tables--waiting",
        "tables--copying",
        "tables--copied",
        "tables--done",
        "tables--left",
        "tables--figure",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", show=False),
        Binding("k", "scroll_up", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(id="tables")
        self.border_title = "Tables"
        self.order = Order.STATE
        self._tables: Sequence[TableProgress] = ()
        self._rows: list[TableProgress] = []
        self._titles = ("", "")
        self.drawn = 0
        """Rows drawn since the start. Tests use it to check that only a few are drawn."""

    def show(self, tables: Sequence[TableProgress]) -> None:
        self._tables = tables
        before, self._rows = self._rows, ordered(tables, self.order)
        self._title()
        if len(before) != len(self._rows):
            self.virtual_size = Size(0, len(self._rows) + 1)
            self.refresh()
            return
        top = int(self.scroll_offset.y)
        for index in range(top, min(len(before), top + self.content_size.height)):
            if before[index] != self._rows[index]:
                self.refresh_line(index + 1)

    def reorder(self) -> None:
        """Use the next order, and scroll to the top."""
        self.order = self.order.next
        self._rows = ordered(self._tables, self.order)
        self._title()
        self.scroll_home(animate=False)
        self.refresh()

    def on_click(self, event: Click) -> None:
        if event.y <= 1:  # border or header
            self.reorder()

    def on_resize(self) -> None:
        self.virtual_size = Size(0, len(self._rows) + 1)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if y == 0:
            return self._header(width)
        index = int(self.scroll_offset.y) + y - 1
        if index >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        self.drawn += 1
        return self._line(self._rows[index], width)

    def _title(self) -> None:
        """Setting a title draws the whole widget, so it is set only when it differs."""
        copied = sum(1 for table in self._tables if table.state is TableState.COPIED)
        title = (f"Tables  {copied:,} of {len(self._tables):,} copied", f"o {self.order}")
        if title != self._titles:
            self._titles = title
            self.border_title, self.border_subtitle = title

    def _header(self, width: int) -> Strip:
        name, rows, size, _bar = columns(width)
        text = "  " + fit("table", name)
        text += fit("rows", rows, right=True) + fit("size", size, right=True)
        return Strip([Segment(fit(text, width), self._style("header"))], width)

    def _line(self, table: TableProgress, width: int) -> Strip:
        name, rows, size, bar = columns(width)
        state = self._style(table.state.value)
        figure = self._style("figure")
        fraction = table_fraction(table)
        segments = [
            Segment(f"{_SYMBOLS[table.state]} ", state),
            Segment(fit(figures.printable(str(table.table)), name), state),
            Segment(fit(_rows(table), rows, right=True), figure),
            Segment(fit(_size(table), size, right=True), figure),
        ]
        if bar:
            done, left = figures.line_bar(fraction, bar)
            done_style = self._style("copied" if table.state is TableState.COPIED else "done")
            segments += [
                Segment("  ", figure),
                Segment(done, done_style),
                Segment(left, self._style("left")),
            ]
        segments.append(Segment(fit(figures.percent(fraction), _PERCENT, right=True), state))
        return Strip(segments).adjust_cell_length(width, self.rich_style)

    def _style(self, part: str) -> Style:
        return self.get_component_rich_style(f"tables--{part}")


def columns(width: int) -> tuple[int, int, int, int]:
    """Widths of (name, rows, size, bar) in a line of `width` cells; 0 for a column without space."""
    rest = width - 2 - _PERCENT - 1
    rows = _ROWS if width >= 84 else 0
    size = _BYTES if width >= 46 else 0
    bar = 20 if width >= 110 else 10 if width >= 60 else 0
    return max(0, rest - rows - size - (bar + 2 if bar else 0)), rows, size, bar


def _rows(table: TableProgress) -> str:
    """Not every server version reports rows during COPY. Without them only the estimate is shown."""
    if table.state is TableState.COPIED:
        return figures.count(table.rows_copied)
    estimated = figures.count(table.rows_estimated)
    return f"{figures.count(table.rows_copied)} of {estimated}" if table.rows_copied else f"~{estimated}"


def _size(table: TableProgress) -> str:
    if table.state is TableState.COPYING:
        return figures.size_of(table.bytes_copied, table.bytes_estimated)
    return figures.size(table.bytes_estimated)
