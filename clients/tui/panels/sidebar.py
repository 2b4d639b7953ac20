"""The migration's workers, and the WAL positions."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from clients.presentation import figures
from clients.presentation.sentences import by_role
from clients.tui.cells import fit
from services.shared.model import Lsn, MigrationView, Positions, Rates, WorkerView


class WorkerStrip(Widget):
    """One line: a dot for each worker, and the number of lost ones."""

    def __init__(self) -> None:
        super().__init__(id="worker-strip")
        self._workers: Sequence[WorkerView] = ()

    def show(self, workers: Sequence[WorkerView]) -> None:
        self._workers = workers
        self.refresh()

    def render(self) -> Content:
        if not self._workers:
            return Content.assemble(("Workers  none is attached", "$muted"))
        parts: list[str | tuple[str, str]] = [("Workers", "$muted")]
        for role, some in by_role(self._workers):
            well = sum(1 for worker in some if not worker.lost)
            lost = len(some) - well
            parts.append(f"  {figures.printable(role)} ")
            parts.append(("●" * well if well <= 8 else f"{well} ●", "$success"))
            if lost:
                parts.append((f"{'✘' * lost if lost <= 4 else f'{lost} ✘'} {lost} lost", "bold $error"))
        return Content.assemble(*parts)


class WorkerPanel(Static):
    """Each worker with its host; lost ones are marked."""

    def __init__(self) -> None:
        super().__init__(id="workers", markup=False)
        self.border_title = "Workers"
        self._shown: Sequence[WorkerView] | None = None

    def show(self, workers: Sequence[WorkerView]) -> None:
        if workers == self._shown:
            return
        self._shown = workers
        lost = sum(1 for worker in workers if worker.lost)
        self.border_subtitle = f"{lost} lost" if lost else ""
        self.set_class(lost > 0, "-lost")
        ranked = [worker for _, some in by_role(workers) for worker in some]
        ranked.sort(key=lambda worker: not worker.lost)  # lost ones first: the panel may be too small for all
        lines = [_worker(worker) for worker in ranked]
        self.update(Content("\n").join(lines) if lines else Content("none is attached"))


def _worker(worker: WorkerView) -> Content:
    mark = ("✘ ", "bold $error") if worker.lost else ("● ", "$success")
    where = figures.printable(worker.host)
    said = (f"{where}  LOST", "bold $error") if worker.lost else (where, "$muted")
    return Content.assemble(mark, fit(figures.printable(worker.role), 9), said)


class PositionPanel(Static):
    """The WAL positions from the source's end to the slot, the distance of each to the first, and
    totals of what was applied."""

    def __init__(self) -> None:
        super().__init__(id="positions", markup=False)
        self.border_title = "WAL positions"
        self._shown: tuple[Positions, Rates] | None = None

    def show(self, view: MigrationView) -> None:
        if (view.positions, view.rates) == self._shown:
            return
        positions = view.positions
        self._shown = (positions, view.rates)
        lines = [
            _position("source", positions.source_lsn, positions.source_lsn),
            _position("decoded", positions.decoded_lsn, positions.source_lsn),
            _position("applied", positions.applied_lsn, positions.source_lsn),
            _position("flushed", positions.flushed_lsn, positions.source_lsn),
            _position("slot", positions.confirmed_lsn, positions.source_lsn),
            Content.assemble((fit("in all", 9), "$muted"), _totals(view.rates)),
        ]
        self.update(Content("\n").join(lines))


def _totals(rates: Rates) -> str:
    return f"{figures.count(rates.rows_applied)} rows, {figures.count(rates.transactions_applied)} tx"


def _position(name: str, at: Lsn, source: Lsn) -> Content:
    behind = source - at if at and source else 0
    distance = f"-{figures.size(behind)}" if behind > 0 else ""
    return Content.assemble(
        (fit(name, 9), "$muted"),
        fit(figures.lsn(at), 14),
        (fit(distance, 11, right=True), "$muted"),
    )
