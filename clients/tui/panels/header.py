"""The top of the screen: source and destination of the migration, its phase, and its problems."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from clients.presentation import figures
from clients.presentation.phases import Mark, elapsed, labels, steps
from clients.presentation.sentences import figures_out_of_date, lost_for_good, trouble_title
from clients.presentation.tones import phase_tone
from clients.tui.cells import cut, fit
from clients.tui.colours import STYLES
from services.shared.model import Endpoint, ErrorKind, MigrationView, PgmigError, Phase

_MARKS = {
    Mark.DONE: "$success",
    Mark.NOW: "bold $accent",
    Mark.PAUSED: "bold $warning",
    Mark.FAILED: "bold $error",
    Mark.TO_COME: "$muted",
}


class Title(Widget):
    """Line 1: id, phase and times. Line 2: source, arrow, destination."""

    def __init__(self, migration_id: str, address: str) -> None:
        super().__init__(id="title")
        self._migration_id = migration_id
        self._address = address
        self._view: MigrationView | None = None
        self._now = 0.0

    @property
    def shown(self) -> MigrationView | None:
        """The view on the screen."""
        return self._view

    def show(self, view: MigrationView, now: float) -> None:
        self._view, self._now = view, now
        self.refresh()

    def render(self) -> Content:
        width = self.content_size.width
        if self._view is None:
            return Content.assemble(
                ("pgmig ", "bold $primary"),
                (cut(self._migration_id, width - 6), "bold"),
                "\n",
                (cut(f"connecting to {figures.printable(self._address)} …", width), "$muted"),
            )
        return self._first_line(self._view, width).append("\n").append(_route(self._view, width))

    def _first_line(self, view: MigrationView, width: int) -> Content:
        total, within = elapsed(view, self._now)
        style = STYLES[phase_tone(view.phase)]
        badge = f" {view.phase.upper()} "
        times = f"  {figures.duration(total)}" if view.created_at else ""
        if view.created_at and not view.phase.ended and width >= 60:
            times = f"  {figures.duration(total)} in all · {figures.duration(within)} in phase"
        where = f"  on {figures.printable(self._address)}" if width >= 100 else ""
        room = width - len(badge) - len(times) - 6
        return Content.assemble(
            ("pgmig ", "bold $primary"),
            (cut(self._migration_id, room), "bold"),
            (fit(where, room - len(cut(self._migration_id, room))), "$muted"),
            (badge, f"bold reverse {style}"),
            (times, "$muted"),
        )


def _route(view: MigrationView, width: int) -> Content:
    """Both endpoints share the width. If one is short, the other gets the remaining space."""
    arrow = "  ══▶  "
    room = max(0, width - len(arrow))
    for product in ("  PostgreSQL ", "  PG ", " "):
        source, destination = _place(view.source, product), _place(view.destination, product)
        if len(source) + len(destination) <= room:
            break
    left = cut(source, max(room // 2, room - len(destination)))
    right = cut(destination, max(0, room - len(left)))
    return Content.assemble((left, "$foreground"), (arrow, "$primary"), (right, "$foreground"))


def _place(where: Endpoint, product: str) -> str:
    version = figures.version(where.server_version_num)
    return figures.endpoint(where) + (f"{product}{version}" if version else "")


class Timeline(Widget):
    """The phases on one line."""

    def __init__(self) -> None:
        super().__init__(id="timeline")
        self._view: MigrationView | None = None

    def show(self, view: MigrationView) -> None:
        self._view = view
        self.refresh()

    def render(self) -> Content:
        if self._view is None:
            return Content("")
        path = steps(self._view)
        texts, joint = labels(path, self.content_size.width)
        parts: list[str | tuple[str, str]] = []
        for step, text in zip(path, texts, strict=True):
            if parts:
                parts.append((joint, "$muted"))
            parts.append((text, _MARKS[step.mark]))
        return Content.assemble(*parts)


class Banner(Static):
    """One or two lines about the connection; hidden while it works."""

    def __init__(self) -> None:
        super().__init__(id="banner", markup=False)
        self.display = False

    def lost(self, error: PgmigError, heard_at: float | None, phase: Phase | None) -> None:
        self._say(figures_out_of_date(error, heard_at, phase))

    def ended(self, error: PgmigError | None) -> None:
        if error is None or error.kind is ErrorKind.NOT_FOUND:
            self._say("This migration has been cleaned up; what you see is its last state. q quits.")
        else:
            self._say(f"⚠ {error}. {error.hint}")

    def clear(self) -> None:
        self.display = False

    def _say(self, text: str) -> None:
        self.update(figures.printable(text))
        self.display = True


class Trouble(Static):
    """Why the migration stopped, or why its last switchover was rolled back, and what to do."""

    def __init__(self) -> None:
        super().__init__(id="trouble", markup=False)
        self.display = False

    def show(self, view: MigrationView) -> None:
        content = _trouble(view)
        self.display = content is not None
        self.set_class(view.phase is Phase.FAILED, "-failed")
        if content is not None:
            self.border_title = trouble_title(view)
            self.update(content)


def _trouble(view: MigrationView) -> Content | None:
    parts: list[str | tuple[str, str]] = []
    failure = view.failure if not view.phase.ended else None
    if failure is not None:
        where = f"  at LSN {failure.lsn}" if failure.lsn else ""
        where += f", source transaction {failure.xid}" if failure.xid else ""
        parts += [(figures.printable(failure.kind), "bold"), (where, "$muted"), "\n"]
        parts.append(figures.printable(failure.message))
        if failure.hint:
            parts += ["\n", ("→ ", "bold"), (figures.printable(failure.hint), "bold")]
    if view.needs_credentials:
        parts.append("\n" if parts else "")
        parts += [("→ ", "bold"), (f"pgmig-cli resume --id {view.migration_id} with both URIs", "bold")]
    elif lost_for_good(view):
        parts += ["\n", ("It cannot be continued: pgmig-cli cleanup, then clone again", "$muted")]
    elif view.phase is Phase.FAILED:
        onward = f" (continues with {view.resume_phase})" if view.resume_phase else ""
        parts += ["\n", (f"When the cause is gone: r resumes{onward}", "$muted")]
    return Content.assemble(*parts) if parts else None
