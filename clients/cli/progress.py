"""Showing a running migration: a live display, lines for a log, or JSON lines.

The live display and the lines are messages (stderr); JSON lines are the command's data (stdout).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from clients.cli.fragments import event_text
from clients.cli.options import Invocation
from clients.cli.output import print_json
from clients.cli.screens import live, plain_progress
from clients.diagnostics import StderrTalk, say, stderr_console, warn
from clients.presentation.history import History
from clients.presentation.sentences import CONNECTION_REGAINED, connection_lost, events_beside_failure
from services.shared.model import Event, MigrationView, Phase
from services.shared.model.redaction import redact
from services.shared.model.view.jsonview import view_to_json

if TYPE_CHECKING:
    from clients.session import Connection

LINE_EVERY_S = 10.0
"""Seconds between progress lines of one phase, if stderr is not a terminal."""


class Progress(Protocol):
    def show(self, view: MigrationView) -> None:
        """Show a new view."""

    def connection(self, connection: Connection) -> None:
        """The stream of views broke, or works again."""

    def note(self, text: str) -> None:
        """Show information that is not about the migration itself."""

    def warn(self, text: str) -> None:
        """Show a problem that is not the migration's own, such as the death of a service."""

    def asking(self) -> AbstractContextManager[None]:
        """For a block that uses the terminal exclusively."""


@contextmanager
def progress_of(invocation: Invocation) -> Iterator[Progress]:
    """The kind of progress that fits `--output` and the terminal, for a block."""
    if invocation.json:
        yield JsonLines()
    elif stderr_console().is_terminal:
        with LiveDisplay() as display:
            yield display
    else:
        yield PlainLines()


class JsonLines(StderrTalk):
    """One view per line, as `status --output json` prints it. Unchanged views are not repeated."""

    def __init__(self) -> None:
        self._last: MigrationView | None = None

    def show(self, view: MigrationView) -> None:
        if view != self._last:
            print_json(view_to_json(view), line=True)
        self._last = view

    def connection(self, connection: Connection) -> None:
        tell_connection(connection)


class PlainLines(StderrTalk):
    """A line for each new event, including each new phase, and progress lines during a long phase."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: Phase | None = None
        self._history = History()
        self._events = _NewEvents()
        self._told_at = clock()

    def show(self, view: MigrationView) -> None:
        self._history.add(view, self._clock())
        if view.phase is not self._phase:
            self._phase = view.phase
            self._told_at = self._clock()
        for event in self._events.of(view):
            say(event_text(event).plain)
        if self._clock() - self._told_at >= LINE_EVERY_S:
            self._told_at = self._clock()
            if line := plain_progress(view, self._history):
                say(line)

    def connection(self, connection: Connection) -> None:
        tell_connection(connection)


class LiveDisplay:
    """Bars at the bottom of the screen, with events above them. A context manager, on stderr. The
    last state remains on the screen."""

    def __init__(self) -> None:
        self._view: MigrationView | None = None
        self._history = History()
        self._events = _NewEvents()
        self._disturbed = ""
        self._display = Live(
            console=stderr_console(),
            get_renderable=self._render,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._display.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._display.stop()

    def show(self, view: MigrationView) -> None:
        self._view = view
        self._history.add(view, time.monotonic())
        for event in self._events.of(view):
            self._print(event_text(event))

    def connection(self, connection: Connection) -> None:
        self._disturbed = connection_lost(connection.error) if connection.error else ""

    def note(self, text: str) -> None:
        self._print(Text(redact(text), "dim"))

    def warn(self, text: str) -> None:
        self._print(Text(f"warning: {redact(text)}", "yellow"))

    @contextmanager
    def asking(self) -> Iterator[None]:
        self._display.stop()
        try:
            yield
        finally:
            self._display.start(refresh=True)

    def _print(self, text: Text) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone; see `diagnostics.talk`
            self._display.console.print(text)

    def _render(self) -> RenderableType:
        if self._view is None:
            return Text("starting", "dim")
        return live(self._view, self._history, time.time(), self._display.console.width, self._disturbed)


class _NewEvents:
    """The events of a view that no earlier view contained. The current failure is omitted, because the
    command ends with it as its error."""

    def __init__(self) -> None:
        self._seen: frozenset[Event] = frozenset()

    def of(self, view: MigrationView) -> list[Event]:
        fresh = [event for event in events_beside_failure(view) if event not in self._seen]
        self._seen = frozenset(view.events)
        return fresh


def tell_connection(connection: Connection) -> None:
    """For `Session.follow` and `Session.follow_operation`."""
    if connection.error is not None:
        warn(connection_lost(connection.error))
    else:
        say(CONNECTION_REGAINED)
