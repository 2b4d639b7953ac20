"""The log pane: the migration's events, each written once, newest at the bottom."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.events import Resize
from textual.widgets import RichLog

from clients.presentation import figures
from clients.presentation.sentences import unseen
from services.shared.model import (
    Event,
    EventLevel,
)

KEPT = 1000
_MARKS = {
    EventLevel.INFO: ("·", "info"),
    EventLevel.WARNING: ("⚠", "warning"),
    EventLevel.ERROR: ("✘", "error"),
}


class EventLog(RichLog):
    """Scrolls to the newest event unless the operator has scrolled up."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "events--time",
        "events--info",
        "events--warning",
        "events--error",
    }

    def __init__(self) -> None:
        super().__init__(id="events", wrap=True, markup=False, highlight=False, max_lines=KEPT, min_width=0)
        self.border_title = "Events"
        self._seen: Sequence[Event] = ()
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._width = 0

    def show(self, events: Sequence[Event]) -> None:
        new = unseen(self._seen, events)
        self._seen = events
        self._kept.extend(new)
        self._append(new, follow=self.is_vertical_scroll_end)

    @property
    def count(self) -> int:
        """Number of events that were written and are still kept."""
        return len(self._kept)

    def on_resize(self, event: Resize) -> None:
        """Lines are wrapped when they are written, so they are written again after a change of width."""
        super().on_resize(event)
        width = self.scrollable_content_region.width
        if width != self._width:
            self._width = width
            self.clear()
            self._append(self._kept, follow=True)

    def _append(self, events: Iterable[Event], *, follow: bool) -> None:
        """Write nothing before the width is known; then `on_resize` writes the events."""
        for event in events if self._width > 0 else ():
            self.write(self._line(event), width=self._width, scroll_end=follow)

    def _line(self, event: Event) -> Text:
        mark, part = _MARKS[event.level]
        line = Text.assemble((figures.clock(event.at), self._style("time")), " ")
        line.append(f"{mark} {figures.printable(event.text)}", self._style(part))
        return line

    def _style(self, part: str) -> Style:
        return self.get_component_rich_style(f"events--{part}", partial=True)
