"""Positions and totals of the change stream, from the reports of decoder and applier."""

from __future__ import annotations

from services.coordinator.migration.lag import LagClock, lag_bytes
from services.coordinator.migration.rates import Totals
from services.shared.model import ApplierProgress, DecoderProgress, Lsn, Positions
from services.shared.pg.replication.position import SourceState

FULL_EPISODE_S = 60.0


class StreamProgress:
    """flushed: the destination's progress as recorded. live: an applier is assigned, and has reported a
    position. applier_error: why its last attempt failed, "" once it has reported a position again."""

    def __init__(self, flushed: Lsn = Lsn(0)) -> None:
        self.source = Lsn(0)
        self.decoded = Lsn(0)
        self.confirmed = Lsn(0)
        self.retained = 0
        self.wal_status = ""
        self.applied = flushed
        self.flushed = flushed
        self.live = False
        self.applier_error = ""
        self._full_at: float | None = None
        self._clock = LagClock()
        self._assignment = ""
        self._earlier = Totals()
        self._current = Totals()

    def source_at(self, now: float, position: Lsn) -> None:
        """Set the end of the source's WAL. now: time of a monotonic clock."""
        self.source = max(self.source, position)
        self._clock.observe(now, self.source)

    def source_state(self, now: float, state: SourceState) -> bool:
        """Take the state that was read from the source. Returns whether it is new."""
        news = state.position > self.source or (self.retained, self.wal_status) != (
            state.retained,
            state.wal_status,
        )
        self.source_at(now, state.position)
        self.retained, self.wal_status = state.retained, state.wal_status
        return news

    def decoder(self, now: float, report: DecoderProgress) -> None:
        self.source_at(now, report.source_lsn)
        self.decoded = report.decoded_lsn
        self.confirmed = report.confirmed_lsn

    def stream_filled(self, now: float, report: DecoderProgress) -> bool:
        """Whether an episode of a full change stream begins with this report. A full stream has space for a
        short time after each trim, so one episode has many such reports."""
        if not report.waiting_for_space:
            return False
        before, self._full_at = self._full_at, now
        return before is None or now - before > FULL_EPISODE_S

    def applier(self, report: ApplierProgress) -> None:
        """Take a report. live: the applier has reported its position since it was assigned."""
        if report.assignment_id != self._assignment:
            self._assignment = report.assignment_id
            self._earlier, self._current = self._earlier + self._current, Totals()
        self._current = Totals(
            report.rows_applied, report.bytes_applied, report.transactions_applied, report.conflicts
        )
        self.applied, self.flushed = report.applied_lsn, report.flushed_lsn
        self.live = bool(report.applied_lsn)
        if self.live:
            self.applier_error = ""

    def applier_failed(self, error: str) -> None:
        self.applier_error = error

    def applier_gone(self) -> None:
        self.live = False

    @property
    def working(self) -> bool:
        """Whether an applier applies changes. One that is live may be failing again and again."""
        return self.live and not self.applier_error

    @property
    def slot_lost(self) -> bool:
        return Positions(wal_status=self.wal_status).slot_lost

    def totals(self) -> Totals:
        return self._earlier + self._current

    def behind(self, now: float) -> tuple[int, float]:
        """Lag in bytes and in seconds. Both are zero when nothing is pending."""
        size = lag_bytes(self.source, self.applied)
        return size, self._clock.seconds(now, self.applied) if size else 0.0

    def positions(self, now: float) -> Positions:
        size, seconds = self.behind(now)
        return Positions(
            self.source,
            self.decoded,
            self.applied,
            self.flushed,
            self.confirmed,
            size,
            seconds,
            self.retained,
            self.wal_status,
        )
