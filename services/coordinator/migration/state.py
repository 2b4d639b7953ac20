"""One migration as the coordinator holds it in memory: its record, and what workers report.

Each change of the record is a method that says what has happened. A change of phase or state is checked
against the tables of transitions in `services.shared.model`. `touch` announces a change that is not recorded.
Every change raises the revision and wakes whoever watches. The clock is injected; all times are Unix seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from services.coordinator.migration.copy_progress import CopyProgress
from services.coordinator.migration.pace import pause
from services.coordinator.migration.rates import RateMeter, Totals
from services.coordinator.migration.record import DroppedTable, PipelineRecord, Record, SlotRecord
from services.coordinator.migration.stream_progress import FollowProgress
from services.shared.model import (
    Endpoint,
    Event,
    EventLevel,
    Failure,
    IndexProgress,
    Lsn,
    MigrationId,
    MigrationPhase,
    MigrationView,
    PgmigError,
    Phase,
    PipelineState,
    PipelineView,
    Rates,
    SkippedTransaction,
    SwitchoverResult,
    TableFile,
    TableId,
    WorkerView,
    check_end,
    check_phase_move,
    check_state,
    check_state_move,
    failure_event,
    shown_phase,
)
from services.shared.pg.catalog.replica_identity import Published
from services.shared.pg.freeze.sessions import OwnSession
from services.shared.pg.freeze.thaw import Before
from services.shared.runtime.changes import Changes

EVENTS_KEPT = 200
WATCH_EVERY_S = 0.25
LONGEST_PAUSE_S = 5.0
"""Limit of the pause between two views, even for large views and slow clients."""
REVISIONS_UNSAVED = 1000
"""Added to a revision that was read from disk. Progress that was not saved has raised it by less."""


def failure_of(error: PgmigError) -> Failure:
    return Failure(error.kind, error.message, error.hint, error.lsn or Lsn(0), error.xid)


def _switched_over(record: Record, result: SwitchoverResult) -> Record:
    pipeline = replace(
        record.forward,
        state=PipelineState.ENDED,
        state_since=result.finished_at,
        flushed_lsn=max(record.forward.flushed_lsn, result.sentinel_lsn),
    )
    record = replace(
        record, phase=MigrationPhase.SWITCHED_OVER, phase_since=result.finished_at, switchover=result
    )
    return record.with_pipeline(pipeline)


def _pipeline_view(record: PipelineRecord) -> PipelineView:
    return PipelineView(
        record.direction, record.state, record.state_since, record.resume_state, record.failure
    )


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
        self.pipeline_id = self.id.forward
        self.copying = CopyProgress(self.pipeline.tables)
        self.following = FollowProgress(self.pipeline.flushed_lsn)
        self.indexes = IndexProgress()
        self.needs_credentials = False
        self.removed = False
        self._rates = RateMeter()
        self.on_change: Callable[[], None] = lambda: None
        self._workers = workers
        self._clock = clock
        self._changes = Changes()

    @property
    def phase(self) -> Phase:
        """For clients and messages."""
        return self.record.shown_phase

    @property
    def pipeline(self) -> PipelineRecord:
        """The record of the pipeline that runs."""
        return self.record.pipeline(self.pipeline_id.direction)

    @property
    def state(self) -> PipelineState:
        return self.pipeline.state

    @property
    def in_switchover(self) -> bool:
        """A switchover has begun, and is neither decided nor undone."""
        return self.record.phase is MigrationPhase.SWITCHOVER

    @property
    def failure(self) -> Failure | None:
        """Why the pipeline failed, or the last switchover."""
        return self.pipeline.failure or self.record.failure

    def _put(self, record: Record) -> None:
        self.record = replace(record, revision=record.revision + 1)
        self._announce()

    def _put_pipeline(self, pipeline: PipelineRecord) -> None:
        self._put(self.record.with_pipeline(pipeline))

    def touch(self) -> None:
        """Something outside the record changed."""
        self._put(self.record)

    def remove(self) -> None:
        """The migration was cleaned up: all watches end."""
        self.removed = True
        self._announce()

    def _announce(self) -> None:
        self.on_change()
        self._changes.announce()

    def event(self, level: EventLevel, text: str) -> None:
        """Add a line to the event log; a repetition of the last line is left out."""
        events = self.record.events
        if events and (events[-1].level, events[-1].text) == (level, text):
            return
        line = Event(self._clock(), level, text)
        self._put(replace(self.record, events=(*events[-EVENTS_KEPT + 1 :], line)))

    # Changes of phase and state. Each raises WRONG_PHASE, with nothing changed, where the tables do not allow
    # it.

    def _move(self, record: Record, pipeline: PipelineRecord, text: str = "") -> None:
        """To another phase or state, with the changes that `record` and `pipeline` have. text: for the event
        log."""
        now = self._clock()
        if record.phase is not self.record.phase:
            check_phase_move(self.record.phase, record.phase)
            record = replace(record, phase_since=now)
        if pipeline.state is not self.state:
            check_state_move(self.state, pipeline.state)
            pipeline = replace(pipeline, state_since=now)
        check_state(record.phase, pipeline.state)
        self._put(record.with_pipeline(pipeline))
        level = EventLevel.ERROR if pipeline.state is PipelineState.FAILED else EventLevel.INFO
        self.event(level, text or f"phase {self.phase}")

    def entered(self, state: PipelineState) -> None:
        """The next state, or the one before when the applier falls behind."""
        self._move(self.record, replace(self.pipeline, state=state))

    def _halted(self, state: PipelineState) -> PipelineRecord:
        """Resume returns to the state of now. Whether it still streams is seen only then; during a
        switchover nothing else is possible."""
        resume = self.state
        if resume is PipelineState.STREAMING and not self.in_switchover:
            resume = PipelineState.CATCHUP
        return replace(self.pipeline, state=state, resume_state=resume)

    def paused(self) -> None:
        self._move(self.record, self._halted(PipelineState.PAUSED))

    def failed(self, failure: Failure) -> None:
        check_state_move(self.state, PipelineState.FAILED)
        pipeline = replace(self._halted(PipelineState.FAILED), failure=failure)
        self._move(self.record, pipeline, failure_event(failure))

    def resumed(self, skipped: SkippedTransaction | None = None) -> None:
        """Resume after a pause or a failure. skipped: the transaction that an operator skipped for it."""
        pipeline = self.pipeline
        assert pipeline.resume_state is not None
        audit = pipeline.skipped if skipped is None else (*pipeline.skipped, skipped)
        pipeline = replace(
            pipeline, state=pipeline.resume_state, resume_state=None, failure=None, skipped=audit
        )
        self._move(replace(self.record, failure=None), pipeline)

    def _ended(self, phase: MigrationPhase) -> None:
        check_end(phase, self.state)
        pipeline = replace(self.pipeline, state=PipelineState.ENDED, resume_state=None)
        self._move(replace(self.record, phase=phase), pipeline)

    def completed(self) -> None:
        """Everything is copied, and no changes are replicated."""
        self._ended(MigrationPhase.COMPLETE)

    def aborted(self) -> None:
        if (
            self.in_switchover and self.state is PipelineState.FAILED
        ):  # it could not be undone, and is given up
            self.record = replace(self.record, phase=MigrationPhase.MIGRATING)
        self._ended(MigrationPhase.ABORTED)

    def began_copy(
        self,
        copied_again: Collection[TableId],
        dropped: Sequence[DroppedTable],
        applier_epoch: str,
    ) -> None:
        """Tables are copied, for the first time or again; `copying` has them already.

        dropped: all of them from now on. applier_epoch: a new one, since changes may have been applied
        to these tables before.
        """
        pipeline = self.pipeline
        pipeline = replace(
            pipeline,
            tables=self.copying.records(),
            dropped=tuple(dropped),
            damaged=tuple(table for table in pipeline.damaged if table not in copied_again),
            applier_epoch=applier_epoch,
            snapshot_id="",
        )
        if pipeline.state is PipelineState.COPY:
            self._put_pipeline(pipeline)
        else:
            pipeline = replace(pipeline, state=PipelineState.COPY, resume_state=None, failure=None)
            self._move(replace(self.record, failure=None), pipeline)

    def began_switchover(self, freeze: Before) -> None:
        """freeze: how to thaw the source, which is frozen only when this has been stored."""
        check_phase_move(self.record.phase, MigrationPhase.SWITCHOVER)
        record = replace(self.record, phase=MigrationPhase.SWITCHOVER, failure=None, freeze=freeze)
        self._move(record, self.pipeline)

    def switchover_undone(self) -> None:
        """The switchover is undone: applications can write to the source again."""
        check_phase_move(self.record.phase, MigrationPhase.MIGRATING)
        record = replace(self.record, phase=MigrationPhase.MIGRATING, freeze=None)
        pipeline = self.pipeline
        if pipeline.resume_state is PipelineState.STREAMING:  # it failed during the switchover
            pipeline = replace(pipeline, resume_state=PipelineState.CATCHUP)
        self._move(record, pipeline, "writers may write to the source again")

    def decided(self, result: SwitchoverResult) -> Record:
        """The record once the switchover is decided, for the store; nothing is changed here."""
        check_phase_move(self.record.phase, MigrationPhase.SWITCHED_OVER)
        check_end(MigrationPhase.SWITCHED_OVER, self.state)
        record = _switched_over(self.record, result)
        return replace(record, revision=record.revision + 1)

    def switched_over(self, result: SwitchoverResult) -> None:
        """The store has the decision. It is valid whatever has happened in this process since then."""
        self._put(_switched_over(self.record, result))

    # The switchover and its end.

    def switchover_failed(self, failure: Failure) -> None:
        """The switchover was rolled back, or never began. The migration continues."""
        self._put(replace(self.record, failure=failure))

    def downtime_measured(self, result: SwitchoverResult) -> None:
        self._put(replace(self.record, switchover=result))

    def thaw_claimed(self, sessions: tuple[OwnSession, ...]) -> None:
        """sessions: of this coordinator, which are about to thaw the source."""
        assert self.record.freeze is not None
        self._put(replace(self.record, freeze=replace(self.record.freeze, sessions=sessions)))

    def thawed(self) -> None:
        """Nothing of the freeze is left on the source."""
        self._put(replace(self.record, freeze=None))

    # What is replicated and copied.

    def slot_ready(self, slot: SlotRecord) -> None:
        self._put_pipeline(replace(self.pipeline, slot=slot))

    def publication_chosen(self, chosen: Published) -> None:
        pipeline = replace(
            self.pipeline,
            published=chosen.whole,
            inserts_only=chosen.inserts_only,
            copied_only=chosen.copied_only,
            altered=chosen.altered,
            sends_generated=chosen.sends_generated,
        )
        self._put_pipeline(pipeline)

    def tables_chosen(self, tables: tuple[TableId, ...]) -> None:
        """What is copied where no changes are replicated."""
        self._put_pipeline(replace(self.pipeline, published=tables))

    def files_noted(self, files: Sequence[TableFile]) -> None:
        """More files of published tables, by which a TRUNCATE is found."""
        self._put_pipeline(replace(self.pipeline, files=(*self.pipeline.files, *files)))

    def copies_noted(self) -> None:
        """The record of tables follows `copying`."""
        self._put_pipeline(replace(self.pipeline, tables=self.copying.records()))

    def tables_dropped(self, dropped: Sequence[DroppedTable]) -> None:
        """Also takes the tables from `copying`. dropped: all of them from now on."""
        self._put_pipeline(replace(self.pipeline, tables=self.copying.records(), dropped=tuple(dropped)))

    def floors_kept(self, dropped: Sequence[DroppedTable]) -> None:
        """dropped: all tables without a record of a copy from now on."""
        self._put_pipeline(replace(self.pipeline, dropped=tuple(dropped)))

    def damage_found(self, table: TableId) -> None:
        """It is copied again before indexes are built."""
        self._put_pipeline(replace(self.pipeline, damaged=(table,)))

    def parts_queued(self, snapshot_id: str) -> None:
        """The copy queue holds the parts that are copied under this snapshot."""
        self._put_pipeline(replace(self.pipeline, snapshot_id=snapshot_id))

    def queue_incomplete(self) -> None:
        """The parts must be queued again."""
        self._put_pipeline(replace(self.pipeline, snapshot_id=""))

    def flushed(self, lsn: Lsn) -> None:
        self._put_pipeline(replace(self.pipeline, flushed_lsn=lsn))

    # What an operator changes.

    def addresses_changed(self, source: Endpoint | None, destination: Endpoint | None) -> None:
        """The same databases are reached elsewhere from now on. None: at the recorded address."""
        record = self.record
        source, destination = source or record.source, destination or record.destination
        self._put(replace(record, source=source, destination=destination))

    def objects_skipped(self, names: Sequence[str]) -> None:
        """Of the schema, what is not restored either."""
        options = self.record.options
        new = tuple(name for name in dict.fromkeys(names) if name not in options.skip_objects)
        options = replace(options, skip_objects=options.skip_objects + new)
        self._put(replace(self.record, options=options))

    def identities_put_back(self) -> None:
        """Replica identities on the source are as they were; later changes of them are not ours."""
        self._put_pipeline(replace(self.pipeline, altered=()))

    async def changed(self) -> None:
        """Return after the next change."""
        await self._changes.wait()

    async def watch(self) -> AsyncIterator[MigrationView]:
        """Yield the view at once, and again after changes: at most four times a second, and less often with
        many tables. When the migration ends or stops, yield at once. Ends when the migration is removed."""
        while not self.removed:
            revision, phase, began = self.record.revision, self.phase, time.monotonic()
            yield self.view()
            took = time.monotonic() - began  # also its way to the client
            await self._rest(min(LONGEST_PAUSE_S, pause(WATCH_EVERY_S, took)), phase)
            while self.record.revision == revision and not self.removed:
                await self.changed()

    async def _rest(self, seconds: float, phase: Phase) -> None:
        """Wait, but not after the migration has stopped running."""
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
        record, pipeline = self.record, self.pipeline
        rows, size, transactions = self._rates.per_second() if self.phase.running else (0.0, 0.0, 0.0)
        applied, resume = self.following.totals(), pipeline.resume_state
        return MigrationView(
            migration_id=record.migration_id,
            phase=self.phase,
            revision=record.revision,
            resume_phase=shown_phase(record.phase, resume) if resume else None,
            failure=self.failure,
            source=record.source,
            destination=record.destination,
            options=record.options,
            created_at=record.created_at,
            phase_since=max(record.phase_since, pipeline.state_since),
            positions=self.following.positions(time.monotonic()),
            rates=Rates(rows, size, transactions, applied.rows, applied.transactions),
            tables=self.copying.tables(),
            events=record.events,
            workers=self._workers(),
            switchover=record.switchover,
            indexes=self.indexes,
            needs_credentials=self.needs_credentials,
            skipped=pipeline.skipped,
            pipelines=tuple(map(_pipeline_view, record.pipelines)),
        )
