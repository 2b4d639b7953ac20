"""The help screen."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

_KEYS = (
    ("q", "quit the dashboard; the migration continues"),
    ("s", "switch over: asks first, shows each step"),
    ("p", "pause: nothing is copied or applied; the source keeps its WAL"),
    ("r", "resume a paused or failed migration where it stopped"),
    ("o", "next order of the tables"),
    ("tab", "go between tables and events; arrows, page up and down scroll"),
    ("?", "this help"),
)
_SYMBOLS = (("✔", "done"), ("●", "now"), ("○", "to come"), ("‖", "paused"), ("✘", "failed or lost"))
_TERMS = (
    ("lag", "WAL written on the source and not yet applied; age of the oldest such commit"),
    ("ETA", "at the pace of the last minute"),
    ("slot", "confirmed position: the source can remove WAL before this point"),
)


class HelpScreen(ModalScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q,enter", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="dialog"):
            yield Static(_text(), markup=False)

    def on_mount(self) -> None:
        dialog = self.query_one("#dialog")
        dialog.border_title = "Help"
        dialog.border_subtitle = "esc closes"


def _text() -> Content:
    parts: list[str | tuple[str, str]] = []
    for rows in (_KEYS, _TERMS):
        for name, meaning in rows:
            parts += [(f"{name:>5}  ", "bold $accent"), meaning, "\n"]
        parts.append("\n")
    for symbol, meaning in _SYMBOLS:
        parts += [(f"  {symbol} ", "bold"), meaning]
    parts.append(
        "\n\nThis is a window on the coordinator. Closing it, or losing its connection, never affects "
        "the migration."
    )
    return Content.assemble(*parts)
