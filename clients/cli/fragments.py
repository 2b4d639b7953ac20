"""The pieces that a migration is shown with: pure functions from values to text and tables.

Names that come from databases pass `printable`, so that none can steer the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from clients.presentation.figures import (
    clock,
    count,
    duration,
    endpoint,
    line_bar,
    lsn,
    percent,
    precise,
    printable,
    size,
    size_rate,
    version,
)
from clients.presentation.phases import elapsed, labels, steps
from clients.presentation.progress import Order, Overall, ordered, table_fraction
from services.shared.model import (
    Endpoint,
    ErrorKind,
    Event,
    Failure,
    MigrationView,
    Phase,
    SkippedTransaction,
    SwitchoverResult,
    SwitchoverStep,
    TableProgress,
    TableState,
    WorkerView,
    failure_event,
    located,
)

BAR_WIDTH = 24

_PHASE_STYLES = {
    Phase.FAILED: "bold red",
    Phase.ABORTED: "red",
    Phase.PAUSED: "yellow",
    Phase.STREAMING: "green",
    Phase.SWITCHED_OVER: "bold green",
    Phase.COMPLETE: "bold green",
}
_LEVEL_STYLES = {"warning": "yellow", "error": "red"}
_STEP_MARKS = {"started": ("…", "dim"), "done": ("✔", "green"), "failed": ("✘", "bold red")}

Row = tuple[str, RenderableType]


def phase_text(phase: Phase) -> Text:
    return Text.assemble((phase.value, _PHASE_STYLES.get(phase, "cyan")))


def fields(rows: Iterable[Row]) -> Table:
    """Names to the left, values to the right."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def columns(*titles: str) -> Table:
    """A table without frames, as kubectl and gh print them."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def described(where: Endpoint) -> str:
    """`host:port/database as user, PostgreSQL 17.4`."""
    user = f" as {printable(where.user)}" if where.user else ""
    server = f", PostgreSQL {version(where.server_version_num)}" if where.server_version_num else ""
    return endpoint(where) + user + server


def timeline(view: MigrationView, width: int) -> Text:
    """The phases in one line, as roomy as `width` cells allow."""
    texts, joint = labels(steps(view), width)
    return Text(joint.join(texts))


def phase_line(view: MigrationView, now: float) -> Text:
    total, since = elapsed(view, now)
    text = phase_text(view.phase)
    if view.phase in {Phase.PAUSED, Phase.FAILED} and view.resume_phase is not None:
        text.append(f" in {view.resume_phase}")
    parts = [f"for {duration(since)}" if since else "", f"{duration(total)} in all" if total else ""]
    told = ", ".join(filter(None, parts))
    return text.append(f"  {told}" if told else "", "dim")


def bar(fraction: float) -> Text:
    done, left = line_bar(fraction, BAR_WIDTH)
    return Text.assemble((done, "green" if fraction >= 1 else "cyan"), (left, "dim"))


def copy_text(total: Overall) -> str:
    """`68.2%  12 of 24 tables  1.2 GiB of about 1.8 GiB`."""
    tables = f"{total.copied} of {counted(total.tables, 'table')}"
    volume = f"{size(total.bytes_done)} of about {size(total.bytes_total)}" if total.bytes_total else ""
    return "  ".join(filter(None, [percent(total.fraction), tables, volume]))


def counted(number: int, noun: str) -> str:
    """`1 row`, `34.5M rows`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def copied_text(tables: Sequence[TableProgress]) -> str:
    """`24 tables, 5.0M rows, 1.2 GiB`: what has been copied."""
    done = [table for table in tables if table.state is TableState.COPIED]
    rows, volume = sum(t.rows_copied for t in done), sum(t.bytes_copied for t in done)
    return f"{counted(len(done), 'table')}, {counted(rows, 'row')}, {size(volume)}"


def copy_pace(view: MigrationView, total: Overall) -> str:
    """`82 MiB/s, about 3m 05s left`; empty unless rows are being copied."""
    pace = view.rates.bytes_per_second
    if view.phase is not Phase.COPY or pace <= 0:
        return ""
    left = (total.bytes_total - total.bytes_done) / pace
    return f"{size_rate(pace)}, about {duration(left)} left"


def lag_text(view: MigrationView) -> str:
    """`1.4s, 34 KiB`, "none", or "unknown" where the source has not said where it is."""
    positions = view.positions
    if not positions.source_lsn:
        return "unknown"
    if not positions.lag_bytes and positions.lag_seconds <= 0:
        return "none"
    return f"{precise(positions.lag_seconds)}, {size(positions.lag_bytes)}"


def lost_for_good(view: MigrationView) -> bool:
    """Whether changes are missing that no `resume` brings back."""
    gap = view.phase is Phase.FAILED and view.failure is not None and view.failure.kind == ErrorKind.GAP
    return gap or view.positions.slot_lost


_WAL_STATUS = {
    "extended": "more than max_wal_size",
    "unreserved": "more than max_slot_wal_keep_size: the slot is lost at the next checkpoint",
    "lost": "the slot is LOST: the source has removed WAL that it needs",
    "gone": "the slot does not exist any more",
}


def retained_text(view: MigrationView) -> Text:
    """`6.5 MiB on the source`: what the slot keeps there, and when that ends badly."""
    positions = view.positions
    remark = _WAL_STATUS.get(positions.wal_status, "")
    if positions.slot_lost:
        return Text(f"none: {remark}", "bold red")
    text = Text(f"{size(positions.retained_bytes)} on the source")
    return text.append(f", {remark}", "yellow") if remark else text


def rate_text(view: MigrationView) -> str:
    rates = view.rates
    rows, transactions = count(rates.rows_per_second), count(rates.transactions_per_second)
    return f"{rows} rows/s, {transactions} transactions/s"


def applied_text(view: MigrationView) -> str:
    rates = view.rates
    return f"{counted(rates.rows_applied, 'row')} in {counted(rates.transactions_applied, 'transaction')}"


def workers_text(workers: Sequence[WorkerView]) -> Text:
    """`decoder, 2 copiers, applier`; the lost ones by name."""
    if not workers:
        return Text("none attached", "yellow")
    roles: dict[str, int] = {}
    for worker in workers:
        if not worker.lost:
            roles[worker.role] = roles.get(worker.role, 0) + 1
    plural = {role: f"{number} {role}s" if number > 1 else role for role, number in roles.items()}
    text = Text(", ".join(printable(label) for label in plural.values()))
    lost = [printable(f"{worker.role} on {worker.host}") for worker in workers if worker.lost]
    if lost:
        text.append(f"{'; ' if roles else ''}lost: {', '.join(lost)}", "yellow")
    return text


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


def result_text(result: SwitchoverResult) -> str:
    return (
        f"writes were blocked for {precise(result.write_downtime_ms / 1000)}, "
        f"{counted(result.sequences, 'sequence')} set, "
        f"everything before {lsn(result.sentinel_lsn)} is on the destination"
    )


def positions_text(view: MigrationView) -> Text:
    p = view.positions
    named = {"source": p.source_lsn, "decoded": p.decoded_lsn, "applied": p.applied_lsn}
    named |= {"flushed": p.flushed_lsn, "confirmed": p.confirmed_lsn}
    return Text("  ".join(f"{name} {lsn(position)}" for name, position in named.items()))


def events_beside_failure(view: MigrationView) -> list[Event]:
    """The timeline without the failure that the view has, which is shown by itself."""
    told = failure_event(view.failure) if view.failure is not None else ""
    return [event for event in view.events if event.text != told]


def event_text(event: Event) -> Text:
    return Text.assemble(
        (clock(event.at), "dim"), "  ", (printable(event.text), _LEVEL_STYLES.get(event.level, ""))
    )


def step_text(step: SwitchoverStep) -> Text:
    mark, style = _STEP_MARKS.get(step.state, ("·", ""))
    blocked = f"{precise(step.elapsed_ms / 1000):>7}" if step.elapsed_ms else " " * 7
    text = Text.assemble(
        (blocked, "dim"), " ", (mark, style), f" {step.name:<10} ", (printable(step.detail), "dim")
    )
    text.rstrip()
    return text


def table_rows(tables: Iterable[TableProgress]) -> Table:
    """One line for each table, those under way first."""
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
