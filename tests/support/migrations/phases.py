"""The phases of an ended migration: how long each took and what it did."""

from __future__ import annotations

from services.shared.model import MigrationView, Phase

_PREFIX = "phase "


def phase_times(view: MigrationView) -> list[tuple[Phase, float]]:
    """Every phase in order with its seconds, from the migration's timeline. The last phase ended it."""
    began = [(Phase.CREATED, view.created_at)]
    for event in view.events:
        name = event.text.removeprefix(_PREFIX)
        if event.text != name and name in set(Phase):
            began.append((Phase(name), event.at))
    if view.switchover is not None:
        began.append((Phase.SWITCHED_OVER, view.switchover.finished_at))
    ends = [at for _, at in began[1:]]
    return [(phase, end - at) for (phase, at), end in zip(began, ends, strict=False)]


def phase_rows(view: MigrationView) -> list[tuple[str, str, str]]:
    """Name, seconds and details of each phase, for people."""
    return [
        (str(phase), f"{seconds:.1f}", _particulars(view, phase, seconds))
        for phase, seconds in phase_times(view)
    ]


def _particulars(view: MigrationView, phase: Phase, seconds: float) -> str:
    match phase:
        case Phase.COPY:
            rows = sum(table.rows_copied for table in view.tables)
            size = sum(table.bytes_copied for table in view.tables) / 2**20
            rates = rows / max(seconds, 0.001), size / max(seconds, 0.001)
            return f"{rows:,} rows, {size:,.0f} MiB: {rates[0]:,.0f} rows/s, {rates[1]:,.0f} MiB/s"
        case Phase.INDEXES:
            return f"{view.indexes.total} indexes and constraints"
        case Phase.STREAMING:
            return (
                f"{view.rates.transactions_applied:,} transactions, {view.rates.rows_applied:,} rows "
                "applied since catch-up began"
            )
        case Phase.SWITCHOVER if view.switchover is not None:
            return f"writes blocked for {view.switchover.write_downtime_ms:,} ms"
        case _:
            return ""
