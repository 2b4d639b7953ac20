"""All widgets of the dashboard as one. Each shows its part of a view."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from clients.presentation.history import History
from clients.tui.panels.event_log import EventLog
from clients.tui.panels.header import Banner, Timeline, Title, Trouble
from clients.tui.panels.metrics import THROUGHPUT, Card, LagCard, Progress
from clients.tui.panels.sidebar import PositionPanel, WorkerPanel, WorkerStrip
from clients.tui.panels.tables import TableList
from services.shared.model import MigrationView, Phase


class Panels(Vertical):
    """Its widgets are stored as attributes and not looked up, so that they are still found if a view
    arrives while the screen is being closed."""

    def __init__(self, migration_id: str, address: str) -> None:
        super().__init__(id="panels")
        self.banner = Banner()
        self.tables = TableList()
        self._title = Title(migration_id, address)
        self._timeline = Timeline()
        self._trouble = Trouble()
        self._progress = Progress()
        self._lag = LagCard()
        self._throughput = Card("Throughput", THROUGHPUT, card_id="throughput")
        self._strip = WorkerStrip()
        self._events = EventLog()
        self._workers = WorkerPanel()
        self._positions = PositionPanel()

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._timeline
        yield self.banner
        yield self._trouble
        yield self._progress
        with Horizontal(id="cards"):
            yield self._lag
            yield self._throughput
        yield self._strip
        with Horizontal(id="main"):
            with Vertical(id="lists"):
                yield self.tables
                yield self._events
            with Vertical(id="side"):
                yield self._workers
                yield self._positions

    def show(self, view: MigrationView, history: History, now: float) -> None:
        """Show a new view."""
        self.set_class(view.phase is Phase.FAILED, "-failed")
        self._timeline.show(view)
        self._trouble.show(view)
        self._strip.show(view.workers)
        self._workers.show(view.workers)
        self._positions.show(view)
        self.tables.show(view.tables)
        self._events.show(view.events)
        self.tick(view, history, now)

    def tick(self, view: MigrationView, history: History, now: float) -> None:
        """Update what changes with time alone."""
        self._title.show(view, now)
        self._progress.show(view, history)
        self._lag.show(view, history)
        self._throughput.show(view, history)
