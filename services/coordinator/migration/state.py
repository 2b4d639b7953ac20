"""One migration as the coordinator holds it in memory: its record, and what workers report.

`update` changes the record, `touch` announces a change that is not recorded; both raise the
revision and wake whoever watches. The clock is injected; all times are Unix seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from services.coordinator.migration.copy_progress import CopyProgress
from services.coordinator.migration.pace import pause
from services.coordinator.migration.rates import RateMeter, Totals
from services.coordinator.migration.record import Record
from services.coordinator.migration.stream_progress import FollowProgress
from services.shared.model import (
    Event,
    EventLevel,
    Failure,
    IndexProgress,
    Lsn,
    MigrationId,
    MigrationView,
    PgmigError,
    Phase,
    Rates,
    WorkerView,
    check_move,
)

EVENTS_KEPT = 200
WATCH_EVERY_S = 0.25
LONGEST_PAUSE_S = 5.0
"""Between two views, however large they are or slowly taken."""
REVISIONS_UNSAVED = 1000
"""Added to a revision read from disk: more than progress can have raised it unsaved."""


def failure_of(error: PgmigError) -> Failure:
    return Failure(error.kind, error.message, error.hint, error.lsn or Lsn(0), error.xid)


class Migration:
    """on_change: called after every change, once somebody has set it."""

    def __init__(
        self,
        record: Record,
        workers: Callable[[], tuple[WorkerView, ...]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """workers: those that work for it now."""
        self.record = record
        self.id = MigrationId.parse(record.migration_id)
        self.copying = CopyProgress(record.tables)
        self.following = FollowProgress(record.flushed_lsn)
        self.indexes = IndexProgress()
        self.needs_credentials = False
        self.removed = False
        self._rates = RateMeter()
        self.on_change: Callable[[], None] = lambda: None
        self._workers = workers
        self._clock = clock
        self._next_change = asyncio.Event()

    @property
    def phase(self) -> Phase:
        return self.record.phase

    def update(self, **changes: Any) -> None:
        """Replace fields of the record."""
        self.record = replace(self.record, **changes, revision=self.record.revision + 1)
        self._announce()

    def touch(self) -> None:
        """Something outside the record changed."""
        self.record = replace(self.record, revision=self.record.revision + 1)
        self._announce()

    def remove(self) -> None:
        """It has been cleaned up: watches end."""
        self.removed = True
        self._announce()

    def _announce(self) -> None:
        self.on_change()
        waiting, self._next_change = self._next_change, asyncio.Event()
        waiting.set()

    def move(self, phase: Phase, text: str = "", level: EventLevel = EventLevel.INFO, **changes: Any) -> None:
        """Go to another phase. Raises WRONG_PHASE. text, level: for the timeline."""
        check_move(self.phase, phase)
        self.update(phase=phase, phase_since=self._clock(), **changes)
        self.event(level, text or f"phase {phase}")

    def event(self, level: EventLevel, text: str) -> None:
        """Add a line to the timeline; a repetition of the last line is left out."""
        events = self.record.events
        if events and (events[-1].level, events[-1].text) == (level, text):
            return
        line = Event(self._clock(), level, text)
        self.update(events=(*events[-EVENTS_KEPT + 1 :], line))

    async def changed(self) -> None:
        """Return after the next change."""
        await self._next_change.wait()

    async def watch(self) -> AsyncIterator[MigrationView]:
        """The view at once, then after changes: those of a while together, at most four times a second
        and, with many tables, less often. When it ends or stops, at once. Ends when removed."""
        while not self.removed:
            revision, phase, began = self.record.revision, self.phase, time.monotonic()
            yield self.view()
            took = time.monotonic() - began  # also its way to the client
            await self._rest(min(LONGEST_PAUSE_S, pause(WATCH_EVERY_S, took)), phase)
            while self.record.revision == revision and not self.removed:
                await self.changed()

    async def _rest(self, seconds: float, phase: Phase) -> None:
        """Wait, but no longer than it runs on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (self.phase is phase or self.phase.running) and not self.removed:
                    await self.changed()

    def sample(self, now: float) -> None:
        """Take one sample for the rates. now: a monotonic clock."""
        self._rates.observe(now, self._totals())

    def _totals(self) -> Totals:
        return self.copying.totals() + self.following.totals()

    def view(self) -> MigrationView:
        record = self.record
        rows, size, transactions = self._rates.per_second() if record.phase.running else (0.0, 0.0, 0.0)
        applied = self.following.totals()
        return MigrationView(
            migration_id=record.migration_id,
            phase=record.phase,
            revision=record.revision,
            resume_phase=record.resume_phase,
            failure=record.failure,
            source=record.source,
            destination=record.destination,
            options=record.options,
            created_at=record.created_at,
            phase_since=record.phase_since,
            positions=self.following.positions(time.monotonic()),
            rates=Rates(rows, size, transactions, applied.rows, applied.transactions),
            tables=self.copying.tables(),
            events=record.events,
            workers=self._workers(),
            switchover=record.switchover,
            indexes=self.indexes,
            needs_credentials=self.needs_credentials,
            skipped=record.skipped,
        )
