"""Texts about a migration, in the words that every client uses.

Names from a database or from the network pass `printable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from clients.presentation.figures import (
    clock,
    count,
    duration,
    endpoint,
    lsn,
    precise,
    printable,
    size,
    size_rate,
    version,
)
from clients.presentation.figures import percent as percentage
from clients.presentation.history import History, Trend
from clients.presentation.phases import elapsed
from clients.presentation.progress import Overall, lag_known
from clients.presentation.tones import Phrase, Tone
from services.shared.model import (
    Endpoint,
    ErrorKind,
    Event,
    Lsn,
    MigrationView,
    Operation,
    PgmigError,
    Phase,
    Positions,
    Role,
    SwitchoverResult,
    TableProgress,
    TableState,
    WorkerView,
    failure_event,
)

KEEPING_UP = frozenset({Phase.STREAMING, Phase.REVERSE, Phase.BIDIRECTIONAL})
KEEPING_UP_S = 5.0
"""While streaming, a lag below this is normal for a busy source and not a trend."""

_ROLES = tuple(Role)
_WAL_STATUS = {
    "extended": "more than max_wal_size",
    "unreserved": "more than max_slot_wal_keep_size: the slot is lost at the next checkpoint",
    "lost": "the slot is LOST: the source has removed WAL that it needs",
    "gone": "the slot does not exist any more",
}
_GROWING = {
    Phase.PAUSED: ("▲ grows while paused", Tone.WARNING),
    Phase.FAILED: ("▲ grows while stopped", Tone.BAD),
}


def counted(number: int, noun: str) -> str:
    """`1 row`, `34.5M rows`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def described(where: Endpoint) -> str:
    """`host:port/database as user, PostgreSQL 17.4`."""
    user = f" as {printable(where.user)}" if where.user else ""
    server = f", PostgreSQL {version(where.server_version_num)}" if where.server_version_num else ""
    return endpoint(where) + user + server


def phase_times(view: MigrationView, now: float) -> str:
    """`for 1m 00s, 1h 00m in all`."""
    total, since = elapsed(view, now)
    parts = [f"for {duration(since)}" if since else "", f"{duration(total)} in all" if total else ""]
    return ", ".join(filter(None, parts))


def copy_text(total: Overall) -> str:
    """`68.2%  12 of 24 tables  1.2 GiB of about 1.8 GiB`."""
    tables = f"{total.copied} of {counted(total.tables, 'table')}"
    volume = f"{size(total.bytes_done)} of about {size(total.bytes_total)}" if total.bytes_total else ""
    return "  ".join(filter(None, [percentage(total.fraction), tables, volume]))


def copied_text(tables: Sequence[TableProgress]) -> str:
    """`24 tables, 5.0M rows, 1.2 GiB`: what has been copied."""
    done = [table for table in tables if table.state is TableState.COPIED]
    rows, volume = sum(t.rows_copied for t in done), sum(t.bytes_copied for t in done)
    return f"{counted(len(done), 'table')}, {counted(rows, 'row')}, {size(volume)}"


def copy_pace(view: MigrationView, history: History) -> str:
    """`82 MiB/s, about 3m 05s left`; empty unless rows are being copied."""
    pace = view.rates.bytes_per_second
    if view.phase is not Phase.COPY or pace <= 0:
        return ""
    left = history.copy_seconds_left(view)
    return size_rate(pace) + (f", about {duration(left)} left" if left is not None else "")


def lag_text(view: MigrationView) -> str:
    """`1.4s, 34 KiB`, "none", or "unknown" if the source's position is not known."""
    return lag_at(view.positions)


def directions(view: MigrationView) -> list[tuple[str, str]]:
    """The direction, and the state and the lag of its pipeline, while both sides are written to."""
    if Phase.BIDIRECTIONAL not in {view.phase, view.resume_phase}:
        return []
    return [
        (
            f"{one.direction}",
            f"{one.state}, lag {lag_at(one.positions)}, {counted(one.rates.conflicts, 'conflict')} resolved",
        )
        for one in view.pipelines
    ]


def lag_at(positions: Positions) -> str:
    """As `lag_text`."""
    if not positions.source_lsn:
        return "unknown"
    if not positions.lag_bytes and positions.lag_seconds <= 0:
        return "none"
    return f"{precise(positions.lag_seconds)}, {size(positions.lag_bytes)}"


def lag_remark(view: MigrationView, history: History) -> Phrase:
    """Whether the destination catches up, and when; an empty text while nothing is known."""
    if not view.options.follow:
        return "a clone replicates no changes", Tone.MUTED
    if view.positions.slot_lost:
        return "✘ the replication slot is lost", Tone.BAD
    if not lag_known(view):
        return "changes queue up meanwhile", Tone.MUTED
    if view.phase in KEEPING_UP and view.positions.lag_seconds < KEEPING_UP_S:
        return "✔ keeping up", Tone.GOOD
    trend, left = history.lag_trend()
    return {
        Trend.UNKNOWN: ("", Tone.PLAIN),
        Trend.CAUGHT_UP: ("✔ caught up", Tone.GOOD),
        Trend.SHRINKING: (f"▼ caught up in ~{duration(left)}", Tone.GOOD),
        Trend.STEADY: ("▬ steady", Tone.MUTED),
        Trend.GROWING: _GROWING.get(view.phase, ("▲ growing: source is faster", Tone.WARNING)),
    }[trend]


def keeps_wal(view: MigrationView) -> bool:
    """Whether it is known how much WAL the slot retains on the source."""
    positions = view.positions
    known = bool(positions.retained_bytes or positions.wal_status)
    return view.options.follow and known and not view.phase.ended


def wal_kept(view: MigrationView) -> list[Phrase]:
    """`6.5 MiB on the source`: the WAL that the slot retains, with a warning if it may be removed."""
    positions = view.positions
    remark = _WAL_STATUS.get(positions.wal_status, "")
    if positions.slot_lost:
        return [(f"none: {remark}", Tone.BAD)]
    kept = (f"{size(positions.retained_bytes)} on the source", Tone.PLAIN)
    return [kept, (f", {remark}", Tone.WARNING)] if remark else [kept]


def rate_text(view: MigrationView) -> str:
    rates = view.rates
    rows, transactions = count(rates.rows_per_second), count(rates.transactions_per_second)
    return f"{rows} rows/s, {transactions} transactions/s"


def applied_text(view: MigrationView) -> str:
    rates = view.rates
    return f"{counted(rates.rows_applied, 'row')} in {counted(rates.transactions_applied, 'transaction')}"


def positions(view: MigrationView) -> list[tuple[str, Lsn]]:
    """The name and value of each WAL position, from the source's end to the slot's confirmed position."""
    p = view.positions
    return [
        ("source", p.source_lsn),
        ("decoded", p.decoded_lsn),
        ("applied", p.applied_lsn),
        ("flushed", p.flushed_lsn),
        ("confirmed", p.confirmed_lsn),
    ]


def by_role(workers: Sequence[WorkerView]) -> list[tuple[Role, list[WorkerView]]]:
    """Workers of each role, in the order of the data flow."""
    ranked = sorted(workers, key=lambda w: (_ROLES.index(w.role), not w.lost, w.host, w.worker_id))
    return [(role, list(some)) for role, some in groupby(ranked, key=lambda w: w.role)]


def workers_attached(workers: Sequence[WorkerView]) -> list[Phrase]:
    """`decoder, 2 copiers, applier`, then the names of lost workers."""
    if not workers:
        return [("none attached", Tone.WARNING)]
    numbers = {role: sum(not worker.lost for worker in some) for role, some in by_role(workers)}
    named = [f"{number} {role}s" if number > 1 else role for role, number in numbers.items() if number]
    lost = [printable(f"{worker.role} on {worker.host}") for worker in workers if worker.lost]
    said = [(", ".join(map(printable, named)), Tone.PLAIN)]
    if lost:
        said.append((f"{'; ' if named else ''}lost: {', '.join(lost)}", Tone.WARNING))
    return said


def events_beside_failure(view: MigrationView) -> list[Event]:
    """The event log without the current failure of the view, which is shown separately."""
    shown = failure_event(view.failure) if view.failure is not None else ""
    return [event for event in view.events if event.text != shown]


def unseen(seen: Sequence[Event], current: Sequence[Event]) -> Sequence[Event]:
    """Events of `current` that come after those in `seen`. The coordinator keeps a bounded number of events,
    so `current` may lack old ones at its front. If nothing overlaps, all events are new."""
    for start in range(max(0, len(seen) - len(current)), len(seen)):
        overlap = len(seen) - start
        if tuple(seen[start:]) == tuple(current[:overlap]):
            return current[overlap:]
    return current


def lost_for_good(view: MigrationView) -> bool:
    """Whether changes are lost that `resume` cannot restore."""
    gap = view.phase is Phase.FAILED and view.failure is not None and view.failure.kind is ErrorKind.GAP
    return gap or view.positions.slot_lost


def next_command(view: MigrationView, *, offline: bool) -> str:
    """The command that the operator most likely needs next; empty if it is best to wait."""
    name = f"--id {view.migration_id}"
    if view.phase.ended:
        return f"pgmig-cli cleanup {name}"
    if lost_for_good(view):
        return f"pgmig-cli cleanup {name}, then clone again into an empty database or with --drop-if-exists"
    if offline:
        return f"pgmig-cli follow {name}"
    if view.phase in {Phase.PAUSED, Phase.FAILED} or view.needs_credentials:
        return f"pgmig-cli resume {name}"
    return {
        Phase.STREAMING: "" if view.options.bidirectional else f"pgmig-cli switchover {name}",
        Phase.BIDIRECTIONAL: f"pgmig-cli finalize {name}, when applications use one side only",
        Phase.REVERSE: f"pgmig-cli rollback {name}, to go back; or pgmig-cli finalize {name}, to end",
    }.get(view.phase, "")


def trouble_title(view: MigrationView) -> str:
    """The problem of a migration that failed, was rolled back, or needs its credentials."""
    if view.phase is Phase.FAILED:
        return "✘ The migration has stopped and keeps its state"
    if view.failure is not None:
        return "⚠ The last switchover was rolled back; the source accepts writes"
    return "⚠ The coordinator needs the credentials again"


def connection_lost(error: PgmigError) -> str:
    return f"connection to the coordinator lost ({error}); trying again"


CONNECTION_REGAINED = "connection to the coordinator regained"


def figures_out_of_date(error: PgmigError, heard_at: float | None, phase: Phase | None) -> str:
    """The text of a screen that still shows figures but has no connection.

    phase: the last known one. The coordinator of an ended migration may be gone permanently.
    """
    old = f" Figures are from {clock(heard_at)}." if heard_at else ""
    if phase is not None and phase.ended:
        return f"The migration has ended and its coordinator cannot be reached any more.{old}"
    return f"⚠ Connection lost, trying again: {error}.{old} The migration continues without it."


def operation_text(operation: Operation) -> str:
    """The state of an operation, and its result."""
    if operation.result is not None:
        return f"{operation.state}: {switchover_result(operation.result)}"
    if operation.failure is not None:
        return f"{operation.state}: {printable(operation.failure.message)}"
    return operation.state.value


DIGITS = 16
"""Of a certificate's digest, where it is only mentioned."""


def switchover_result(result: SwitchoverResult) -> str:
    return (
        f"writes were blocked for {precise(result.write_downtime_ms / 1000)}, "
        f"{counted(result.sequences, 'sequence')} set, "
        f"everything before {lsn(result.sentinel_lsn)} is on the destination"
        + (f", certificate {result.certificate_sha256[:DIGITS]}…" if result.certificate_sha256 else "")
    )
