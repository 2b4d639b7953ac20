"""Parts of the screens: pure functions from values to styled text and tables.

Names from databases pass `printable`, so that they cannot control the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from clients.presentation.figures import (
    clock,
    count,
    line_bar,
    lsn,
    percent,
    precise,
    printable,
    size,
)
from clients.presentation.phases import labels, steps
from clients.presentation.progress import Order, ordered, table_fraction
from clients.presentation.sentences import operation_text, phase_times, positions
from clients.presentation.tones import Phrase, Tone, level_tone, phase_tone, step_tone
from services.shared.model import (
    DryRunStep,
    Event,
    Failure,
    MigrationView,
    Operation,
    Phase,
    SkippedTransaction,
    StepState,
    SwitchoverStep,
    TableProgress,
    TableState,
    located,
)

BAR_WIDTH = 24

STYLES = {
    Tone.PLAIN: "",
    Tone.MUTED: "dim",
    Tone.ACTIVE: "cyan",
    Tone.GOOD: "green",
    Tone.WARNING: "yellow",
    Tone.BAD: "red",
}
_STEP_MARKS = {StepState.STARTED: "…", StepState.DONE: "✔", StepState.FAILED: "✘"}

Row = tuple[str, RenderableType]


def phase_text(phase: Phase) -> Text:
    bold = "bold " if phase.ended or phase is Phase.FAILED else ""
    return Text.assemble((phase.value, bold + STYLES[phase_tone(phase)]))


def toned(phrases: Iterable[Phrase]) -> Text:
    return Text.assemble(*((text, STYLES[tone]) for text, tone in phrases))


def fields(rows: Iterable[Row]) -> Table:
    """Names in the left column, values in the right one."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def columns(*titles: str) -> Table:
    """A table without borders, as in kubectl and gh."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def timeline(view: MigrationView, width: int) -> Text:
    """The phases on one line of at most `width` cells."""
    texts, joint = labels(steps(view), width)
    return Text(joint.join(texts))


def phase_line(view: MigrationView, now: float) -> Text:
    text = phase_text(view.phase)
    if view.phase in {Phase.PAUSED, Phase.FAILED} and view.resume_phase is not None:
        text.append(f" in {view.resume_phase}")
    times = phase_times(view, now)
    return text.append(f"  {times}" if times else "", "dim")


def bar(fraction: float) -> Text:
    done, left = line_bar(fraction, BAR_WIDTH)
    return Text.assemble((done, "green" if fraction >= 1 else "cyan"), (left, "dim"))


def failure_text(failure: Failure) -> Text:
    at = located(failure.lsn, failure.xid)
    text = Text.assemble((failure.kind, "red"), f"  {printable(failure.message)}{at}")
    return text.append(f"\n{printable(failure.hint)}", "dim") if failure.hint else text


def skipped_text(skipped: SkippedTransaction) -> Text:
    transaction = f"transaction {skipped.xid} at" if skipped.xid else "transaction at"
    text = Text(
        f"{transaction} {skipped.lsn}, by {printable(skipped.who)} at {clock(skipped.at)}: ", "yellow"
    )
    text.append(printable(skipped.reason))
    return text.append(f"\n{printable(skipped.failure)}", "dim")


def positions_text(view: MigrationView) -> Text:
    return Text("  ".join(f"{name} {lsn(position)}" for name, position in positions(view)))


def event_text(event: Event) -> Text:
    return Text.assemble(
        (clock(event.at), "dim"), "  ", (printable(event.text), STYLES[level_tone(event.level)])
    )


def step_text(step: SwitchoverStep) -> Text:
    mark, style = _STEP_MARKS[step.state], STYLES[step_tone(step.state)]
    blocked = f"{precise(step.elapsed_ms / 1000):>7}" if step.elapsed_ms else " " * 7
    text = Text.assemble(
        (blocked, "dim"), " ", (mark, style), f" {step.name:<10} ", (printable(step.detail), "dim")
    )
    text.rstrip()
    return text


def operation_rows(operations: Iterable[Operation]) -> Table:
    shown = columns("OPERATION", "STARTED", "ENDED", "STATE")
    for operation in operations:
        ended = clock(operation.finished_at) if operation.finished_at else "-"
        shown.add_row(
            printable(operation.operation_id), clock(operation.started_at), ended, operation_text(operation)
        )
    return shown


def dry_step_text(step: DryRunStep) -> Text:
    mark, style = _STEP_MARKS[step.state], STYLES[step_tone(step.state)]
    text = Text.assemble(
        (f"{precise(step.took_ms / 1000):>7}", "dim"),
        " ",
        (mark, style),
        f" {step.name:<11} ",
        (printable(step.detail), "dim"),
    )
    return text.append(f"\n  → {printable(step.remedy)}", "dim") if step.remedy else text


def table_rows(tables: Iterable[TableProgress]) -> Table:
    """One line for each table; those that are being copied come first."""
    shown = columns("TABLE", "STATE", "DONE", "ROWS", "SIZE")
    for table in ordered(tables, Order.STATE):
        rows = table.rows_copied if table.state is TableState.COPIED else table.rows_estimated
        about = "" if table.state is TableState.COPIED else "~"
        volume = max(table.bytes_estimated, table.bytes_copied)
        shown.add_row(
            printable(str(table.table)),
            table.state.value,
            percent(table_fraction(table)),
            f"{about}{count(rows)}",
            size(volume),
        )
    return shown
