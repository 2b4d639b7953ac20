"""The complete display of a migration in a terminal: in `status`, in `list`, live, and in a log."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clients.cli.fragments import (
    Row,
    bar,
    columns,
    event_text,
    failure_text,
    fields,
    phase_line,
    phase_text,
    positions_text,
    skipped_text,
    table_rows,
    timeline,
    toned,
)
from clients.presentation.figures import duration, endpoint, percent, printable
from clients.presentation.history import History
from clients.presentation.progress import Order, ordered, overall, table_fraction
from clients.presentation.readiness import explained
from clients.presentation.sentences import (
    applied_text,
    copied_text,
    copy_pace,
    copy_text,
    counted,
    described,
    directions,
    events_beside_failure,
    keeps_wal,
    lag_text,
    next_command,
    operation_text,
    rate_text,
    switchover_result,
    wal_kept,
    workers_attached,
)
from services.shared.model import MigrationView, Phase, TableState

TABLES_SHOWN = 8
EVENTS_SHOWN = 8
LABELS_WIDTH = 13
"""Width of the column of field names, in cells."""


_LAGGING = frozenset(
    {
        Phase.CATCHUP,
        Phase.STREAMING,
        Phase.SWITCHOVER,
        Phase.REVERSE,
        Phase.ROLLBACK,
        Phase.BIDIRECTIONAL,
    }
)


def status(
    view: MigrationView, now: float, width: int, *, offline_since: float | None, all_tables: bool
) -> Group:
    """Everything that `status` shows.

    width: of the screen, in cells. offline_since: when the state file was written, if the view was
    read from it.
    """
    parts: list[RenderableType] = [fields(_status_rows(view, now, width, offline_since))]
    shown = view.tables if all_tables else [t for t in view.tables if t.state is TableState.COPYING]
    if shown:
        parts += ["", table_rows(shown)]
    if events := events_beside_failure(view):
        parts += ["", *(event_text(event) for event in events[-EVENTS_SHOWN:])]
    return Group(*parts)


def _status_rows(view: MigrationView, now: float, width: int, offline_since: float | None) -> list[Row]:
    at = offline_since if offline_since is not None else now
    rows: list[Row] = [
        ("Migration", Text(view.migration_id, "bold")),
        ("Phase", phase_line(view, at)),
        ("", timeline(view, width - LABELS_WIDTH)),
        ("Source", described(view.source)),
        ("Destination", described(view.destination)),
    ]
    if view.failure is not None:
        rows.append(("Failure", failure_text(view.failure)))
    rows += [("Not removed", Text(printable(thing), "yellow")) for thing in view.left]
    rows += _progress_rows(view)
    if view.readiness is not None and offline_since is None:
        can = "Can go back" if _returns(view) else "Can switch"
        rows.append((can, toned(explained(view.readiness))))
    if offline_since is not None:
        rows.append(("Running", Text(f"no; this is from {duration(now - offline_since)} ago", "yellow")))
    elif view.phase.running:
        rows.append(("Workers", toned(workers_attached(view.workers))))
    following = next_command(view, offline=offline_since is not None)
    return [*rows, ("Next", Text(following, "cyan"))] if following else rows


def _returns(view: MigrationView) -> bool:
    """Whether changes are replicated back to the source."""
    return Phase.REVERSE in {view.phase, view.resume_phase} or view.phase is Phase.ROLLBACK


def _progress_rows(view: MigrationView) -> list[Row]:
    rows: list[Row] = []
    if view.tables:
        total = overall(view.tables)
        copied = copied_text(view.tables) if total.fraction >= 1 else copy_text(total)
        rows.append(("Copied", ", ".join(filter(None, [copied, copy_pace(view, History(view))]))))
    if view.indexes.total:
        rows.append(("Indexes", f"{view.indexes.done} of {view.indexes.total}"))
    both = directions(view)
    rows += [(direction.capitalize(), text) for direction, text in both]
    if view.positions.applied_lsn and not (view.phase.ended or both):
        rows.append(("Reverse lag" if _returns(view) else "Lag", lag_text(view)))
        rows.append(("Rate", rate_text(view)))
    if keeps_wal(view):
        rows.append(("WAL kept", toned(wal_kept(view))))
    if view.rates.transactions_applied:
        rows.append(("Applied", applied_text(view)))
    if view.positions.source_lsn:
        rows.append(("Positions", positions_text(view)))
    rows += [("Skipped", skipped_text(skipped)) for skipped in view.skipped]
    rows += [("Not restored", Text(printable(name), "yellow")) for name in view.options.skip_objects]
    if view.switchover is not None:
        rows.append(("Switchover", switchover_result(view.switchover)))
    elif view.operation is not None:
        rows.append(("Switchover", Text(operation_text(view.operation))))
    return rows


def live(view: MigrationView, history: History, now: float, width: int, note: str = "") -> Group:
    """The display of a running migration. note: a problem such as a lost connection."""
    total = overall(view.tables)
    rows: list[Row] = [
        (view.migration_id, phase_line(view, now)),
        ("", timeline(view, width - LABELS_WIDTH)),
        ("", f"{endpoint(view.source)} → {endpoint(view.destination)}"),
    ]
    if view.tables:
        rows.append(("copy", _measured(total.fraction, copy_text(total))))
        if pace := copy_pace(view, history):
            rows.append(("", pace))
    if view.phase is Phase.COPY:
        rows += _copying_rows(view)
    if view.indexes.total:
        fraction = view.indexes.done / view.indexes.total
        rows.append(("indexes", _measured(fraction, f"{view.indexes.done} of {view.indexes.total}")))
        rows += [("", Text(printable(label), "dim")) for label in view.indexes.building[:TABLES_SHOWN]]
    rows += directions(view)
    if view.phase in _LAGGING - {Phase.BIDIRECTIONAL}:
        rows += [
            ("reverse lag" if _returns(view) else "lag", lag_text(view)),
            ("rate", rate_text(view)),
            ("applied", applied_text(view)),
        ]
    if note:
        rows.append(("", Text(printable(note), "yellow")))
    return Group(fields(rows))


def _copying_rows(view: MigrationView) -> list[Row]:
    under_way = [t for t in ordered(view.tables, Order.STATE) if t.state is TableState.COPYING]
    rows: list[Row] = [
        ("", _measured(table_fraction(t), f"{percent(table_fraction(t)):>6}  {printable(str(t.table))}"))
        for t in under_way[:TABLES_SHOWN]
    ]
    if len(under_way) > TABLES_SHOWN:
        rows.append(("", f"and {counted(len(under_way) - TABLES_SHOWN, 'more table')}"))
    return rows


def _measured(fraction: float, detail: str) -> Text:
    return bar(fraction).append(f" {detail}")


def plain_progress(view: MigrationView, history: History) -> str:
    """One line for a log: the progress of the current phase; empty if the phase has no figures."""
    if view.phase is Phase.COPY and view.tables:
        total = overall(view.tables)
        indexes = f"indexes {view.indexes.done} of {view.indexes.total}" if view.indexes.total else ""
        return ", ".join(filter(None, [f"copy {copy_text(total)}", copy_pace(view, history), indexes]))
    if view.phase is Phase.INDEXES and view.indexes.total:
        return f"indexes {view.indexes.done} of {view.indexes.total}"
    if view.phase in _LAGGING - {Phase.SWITCHOVER, Phase.ROLLBACK}:
        return f"{view.phase} lag {lag_text(view)}; {rate_text(view)}"
    return ""


def list_rows(entries: Iterable[tuple[MigrationView, bool]], now: float) -> Table:
    """A table with one row for each (view, whether it runs now)."""
    shown = columns("ID", "PHASE", "RUNNING", "SOURCE", "DESTINATION", "LAG", "WAL KEPT", "AGE")
    for view, running in entries:
        shown.add_row(
            view.migration_id,
            phase_text(view.phase),
            "yes" if running else "no",
            endpoint(view.source),
            endpoint(view.destination),
            lag_text(view) if running and view.positions.applied_lsn else "",
            toned(wal_kept(view)) if keeps_wal(view) else "",
            duration(now - view.created_at) if view.created_at else "",
        )
    return shown
