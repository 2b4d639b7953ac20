"""Figures that change: progress of the copy and of indexes, lag, throughput."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from textual.content import Content
from textual.widget import Widget

from clients.presentation import figures
from clients.presentation.history import History
from clients.presentation.progress import Overall, lag_known, overall
from clients.presentation.sentences import lag_remark
from clients.presentation.tones import Tone
from clients.tui.cells import fit
from clients.tui.colours import STYLES
from clients.tui.panels.sparkline import sparkline
from services.shared.model import MigrationView


class Progress(Widget):
    """Two bars: rows copied (by bytes, with the remaining time) and indexes built."""

    def __init__(self) -> None:
        super().__init__(id="progress")
        self._view: MigrationView | None = None
        self._copy = overall(())
        self._left: float | None = None

    def show(self, view: MigrationView, history: History) -> None:
        self._view = view
        self._copy = overall(view.tables)
        self._left = history.copy_seconds_left(view)
        self.refresh()

    def render(self) -> Content:
        if self._view is None:
            return Content("")
        width = self.content_size.width
        indexes = self._view.indexes
        built = indexes.done / indexes.total if indexes.total else 0.0
        built_text = f"{indexes.done:,} of {indexes.total:,}" if indexes.total else "not begun"
        return (
            _bar("Copy", self._copy.fraction, _copy_text(self._copy, self._left), width, figures.bar)
            .append("\n")
            .append(_bar("Indexes", built, built_text, width, figures.line_bar))
        )


def _copy_text(copy: Overall, left: float | None) -> str:
    if copy.tables == 0:
        return "no tables yet"
    if copy.copied == copy.tables:
        return f"{figures.size(copy.bytes_total)}, {copy.tables:,} tables"
    text = figures.size_of(copy.bytes_done, copy.bytes_total)
    return f"{text} · ETA {figures.duration(left)}" if left is not None else text


def _bar(
    name: str, fraction: float, text: str, width: int, shape: Callable[[float, int], tuple[str, str]]
) -> Content:
    """Name, bar, percentage, text. If the line is short, the text is shortened first."""
    room = width - 9 - 7 - 2
    text_width = min(34, max(0, room - 12))
    done, left = shape(fraction, max(4, room - text_width))
    return Content.assemble(
        (fit(name, 9), "$muted"),
        (done, "$success" if fraction >= 1 else "$primary"),
        (left, "$track"),
        (fit(figures.percent(fraction), 7, right=True), "bold"),
        "  ",
        (fit(text, text_width), "$muted"),
    )


def _lag(view: MigrationView, text: str) -> str:
    positions = view.positions
    known = lag_known(view) and (positions.source_lsn or positions.lag_bytes)
    return text if known else figures.NONE


@dataclass(frozen=True, slots=True)
class Meter:
    """One line of a card: a name, the current value, and a sparkline of a series of the history."""

    name: str
    series: str
    value: Callable[[MigrationView], str]


LAG = (
    Meter("WAL", "lag_bytes", lambda view: _lag(view, figures.size(view.positions.lag_bytes))),
    Meter("time", "lag_seconds", lambda view: _lag(view, figures.precise(view.positions.lag_seconds))),
)
THROUGHPUT = (
    Meter("rows", "rows", lambda view: figures.count_rate(view.rates.rows_per_second)),
    Meter("data", "bytes", lambda view: figures.size_rate(view.rates.bytes_per_second)),
    Meter("tx", "transactions", lambda view: figures.count_rate(view.rates.transactions_per_second)),
)


class Card(Widget):
    """A list of meters with the largest height that the card allows, and a remark at the end."""

    def __init__(self, title: str, meters: tuple[Meter, ...], *, card_id: str) -> None:
        super().__init__(id=card_id)
        self.border_title = title
        self._meters = meters
        self._view: MigrationView | None = None
        self._history = History()

    def show(self, view: MigrationView, history: History) -> None:
        self._view, self._history = view, history
        self.refresh()

    def remark(self, view: MigrationView, history: History) -> tuple[str, str] | None:
        """(text, style) of a line below the meters; None if there is no such line."""
        del view, history
        return None

    def render(self) -> Content:
        if self._view is None:
            return Content("")
        remark = self.remark(self._view, self._history)
        lines = self.content_size.height - (1 if remark else 0)
        tall = max(1, lines // len(self._meters))
        parts: list[Content] = [self._meter(meter, self._view, tall) for meter in self._meters]
        if remark:
            parts.append(Content.assemble(remark))
        return Content("\n").join(parts)

    def _meter(self, meter: Meter, view: MigrationView, tall: int) -> Content:
        name, value = 5, 11
        width = max(0, self.content_size.width - name - value - 1)
        lines = sparkline(self._history.series(meter.series), width, tall)
        parts: list[str | tuple[str, str]] = []
        for row, line in enumerate(lines):
            last = row == len(lines) - 1
            parts.append((fit(meter.name if last else "", name), "$muted"))
            parts.append((fit(meter.value(view) if last else "", value, right=True), "bold"))
            parts += [" ", (line, "$primary"), "" if last else "\n"]
        return Content.assemble(*parts)


class LagCard(Card):
    """The lag of the destination, whether it catches up, and how much WAL the slot retains."""

    def __init__(self) -> None:
        super().__init__("Lag", LAG, card_id="lag")

    def show(self, view: MigrationView, history: History) -> None:
        super().show(view, history)
        kept = view.positions.retained_bytes
        self.border_subtitle = f"WAL kept {figures.size(kept)}" if kept and not view.phase.ended else ""

    def remark(self, view: MigrationView, history: History) -> tuple[str, str]:
        text, tone = lag_remark(view, history)
        return text, f"bold {STYLES[tone]}" if tone is Tone.BAD else STYLES[tone]
