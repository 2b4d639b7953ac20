"""A migration in the coordinator's memory: its record, and the progress that workers report.

Each change of the record has a method, which is named after the event. A change of phase or state is checked
against the transitions in `services.shared.model`. `touch` announces a change that is not in the record.
Every change raises the revision and wakes all watches. The clock is injected. Times are in Unix seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from services.coordinator.migration.copy_progress import CopyProgress
from services.coordinator.migration.operations import OperationLog, Operations, moved
from services.coordinator.migration.rates import RateMeter
from services.coordinator.migration.readiness import ServersSeen
from services.coordinator.migration.record import DroppedTable, PipelineRecord, Record, SlotRecord
from services.coordinator.migration.stream_progress import StreamProgress
from services.shared.model import (
    Endpoint,
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    IndexProgress,
    Lsn,
    MigrationId,
    MigrationPhase,
    OperationState,
    PgmigError,
    Phase,
    PipelineState,
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
)
from services.shared.pg.catalog.replica_identity import Published
from services.shared.pg.freeze.sessions import OwnSession
from services.shared.pg.freeze.thaw import Before
from services.shared.runtime.changes import Changes

EVENTS_KEPT = 200
REVISIONS_UNSAVED = 1000
"""Added to a revision that was read from disk. Progress that was not saved has raised it by less."""


def _switched_over(record: Record, result: SwitchoverResult) -> Record:
    pipeline = replace(
        record.forward,
        state=PipelineState.ENDED,
        state_since=result.finished_at,
        flushed_lsn=max(record.forward.flushed_lsn, result.sentinel_lsn),
    )
    closed = record.freeze is not None and record.freeze.database
    record = replace(
        record,
        phase=MigrationPhase.SWITCHED_OVER,
        phase_since=result.finished_at,
        switchover=result,
        freeze=record.freeze if closed else None,  # else there is nothing to thaw
    )
    return record.with_pipeline(pipeline)


class Migration:
    """on_change: called after every change."""

    def __init__(
        self,
        record: Record,
        workers: Callable[[], tuple[WorkerView, ...]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """workers: returns the workers that work for the migration now."""
        self.record = record
        self.id = MigrationId.parse(record.migration_id)
        self.pipeline_id = self.id.forward
        self.copying = CopyProgress(self.pipeline.tables)
        self.following = StreamProgress(self.pipeline.flushed_lsn)
        self.indexes = IndexProgress()
        self.servers = ServersSeen()
        self.needs_credentials = False
        self.removed = False
        self.rates = RateMeter()
        self.on_change: Callable[[], None] = lambda: None
        self.workers = workers
        self._clock = clock
        self.operations = OperationLog(lambda: self.record.operations, self._put_operations, clock)
        self._changes = Changes()

    @property
    def phase(self) -> Phase:
        """For clients and messages."""
        return self.record.shown_phase

    @property
    def pipeline(self) -> PipelineRecord:
        """The record of the running pipeline."""
        return self.record.pipeline(self.pipeline_id.direction)

    @property
    def state(self) -> PipelineState:
        return self.pipeline.state

    @property
    def in_switchover(self) -> bool:
        """Whether a switchover has begun and is neither decided nor undone."""
        return self.record.phase is MigrationPhase.SWITCHOVER

    @property
    def failure(self) -> Failure | None:
        """The failure of the pipeline or, if it has not failed, of the last switchover."""
        return self.pipeline.failure or self.record.failure

    def _put(self, record: Record) -> None:
        self.record = replace(record, revision=record.revision + 1)
        self._announce()

    def _put_pipeline(self, pipeline: PipelineRecord) -> None:
        self._put(self.record.with_pipeline(pipeline))

    def touch(self) -> None:
        """Announce a change outside the record."""
        self._put(self.record)

    def remove(self) -> None:
        """The migration was cleaned up. All watches end."""
        self.removed = True
        self._announce()

    def _announce(self) -> None:
        self.on_change()
        self._changes.announce()

    def event(self, level: EventLevel, text: str) -> None:
        """Add a line to the event log, unless it repeats the last line."""
        events = self.record.events
        if events and (events[-1].level, events[-1].text) == (level, text):
            return
        line = Event(self._clock(), level, text)
        self._put(replace(self.record, events=(*events[-EVENTS_KEPT + 1 :], line)))

    # Changes of phase and state. If a transition is not allowed, they raise WRONG_PHASE and change nothing.

    def _move(self, record: Record, pipeline: PipelineRecord, text: str = "") -> None:
        """Change to the phase and state of `record` and `pipeline`, with their other changes. text: the line
        for the event log."""
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
        """The pipeline has entered the next state, or the one before because the applier fell behind."""
        self._move(self.record, replace(self.pipeline, state=state))

    def _halted(self, state: PipelineState) -> PipelineRecord:
        """The pipeline, halted. `resumed` returns to the current state. A pipeline that was streaming has to
        catch up first, except during a switchover, which begins only while the pipeline streams."""
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
        """Return to the state before the pause or failure. skipped: skipped by an operator."""
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
        """Everything is copied. No changes are replicated."""
        self._ended(MigrationPhase.COMPLETE)

    def aborted(self) -> None:
        # A switchover that could not be undone is abandoned.
        if self.in_switchover and self.state is PipelineState.FAILED:
            self.record = replace(self.record, phase=MigrationPhase.MIGRATING)
        self._ended(MigrationPhase.ABORTED)

    def began_copy(
        self,
        copied_again: Collection[TableId],
        dropped: Sequence[DroppedTable],
        applier_epoch: str,
    ) -> None:
        """The copy of tables begins, for the first time or again. `copying` already contains them.

        dropped: replaces the recorded list. applier_epoch: a new one, because changes may already have been
        applied to these tables.
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
        """freeze: how to thaw the source. The source is frozen only after this has been stored. The same
        write stores that the operation runs, so that no later coordinator begins it again. Raises WRONG_PHASE
        if there is no operation that has not ended."""
        check_phase_move(self.record.phase, MigrationPhase.SWITCHOVER)
        if self.operations.current is None:
            raise PgmigError(ErrorKind.WRONG_PHASE, f"no switchover of migration {self.id} was requested")
        record = replace(
            self.record,
            phase=MigrationPhase.SWITCHOVER,
            failure=None,
            freeze=freeze,
            operations=moved(self.record.operations, OperationState.RUNNING, self._clock()),
        )
        self._move(record, self.pipeline)

    def switchover_undone(self) -> None:
        """The switchover is undone: applications can write to the source again."""
        check_phase_move(self.record.phase, MigrationPhase.MIGRATING)
        record = replace(self.record, phase=MigrationPhase.MIGRATING, freeze=None)
        pipeline = self.pipeline
        if pipeline.resume_state is PipelineState.STREAMING:  # the pipeline failed during the switchover
            pipeline = replace(pipeline, resume_state=PipelineState.CATCHUP)
        self._move(record, pipeline, "writers may write to the source again")

    def decided(self, result: SwitchoverResult) -> Record:
        """Return the record of a decided switchover, for the store. Changes nothing."""
        check_phase_move(self.record.phase, MigrationPhase.SWITCHED_OVER)
        check_end(MigrationPhase.SWITCHED_OVER, self.state)
        record = _switched_over(self.record, result)
        return replace(record, revision=record.revision + 1)

    def switched_over(self, result: SwitchoverResult) -> None:
        """The store has the decision. It is valid, whatever has happened in this process since then."""
        self._put(_switched_over(self.record, result))

    # The switchover.

    def switchover_failed(self, failure: Failure) -> None:
        """The switchover was rolled back or could not begin. The migration continues."""
        self._put(replace(self.record, failure=failure))

    def downtime_measured(self, result: SwitchoverResult) -> None:
        self._put(replace(self.record, switchover=result))

    def thaw_claimed(self, sessions: tuple[OwnSession, ...]) -> None:
        """sessions: the sessions with which this coordinator is about to thaw the source."""
        assert self.record.freeze is not None
        self._put(replace(self.record, freeze=replace(self.record.freeze, sessions=sessions)))

    def thawed(self) -> None:
        """The freeze has been removed from the source completely."""
        self._put(replace(self.record, freeze=None))

    def _put_operations(self, operations: Operations) -> None:
        self._put(replace(self.record, operations=operations))

    # Replicated and copied tables.

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
        """tables: those that are copied, by a migration that replicates no changes."""
        self._put_pipeline(replace(self.pipeline, published=tables))

    def files_noted(self, files: Sequence[TableFile]) -> None:
        """files: relation files of more published tables. A TRUNCATE is detected by a change of the file."""
        self._put_pipeline(replace(self.pipeline, files=(*self.pipeline.files, *files)))

    def copies_noted(self) -> None:
        """Record the tables of `copying`."""
        self._put_pipeline(replace(self.pipeline, tables=self.copying.records()))

    def tables_dropped(self, dropped: Sequence[DroppedTable]) -> None:
        """Record the tables of `copying` too. dropped: replaces the recorded list."""
        self._put_pipeline(replace(self.pipeline, tables=self.copying.records(), dropped=tuple(dropped)))

    def floors_kept(self, dropped: Sequence[DroppedTable]) -> None:
        """dropped: replaces the list of tables that have no record of a copy."""
        self._put_pipeline(replace(self.pipeline, dropped=tuple(dropped)))

    def damage_found(self, table: TableId) -> None:
        """The table is copied again before indexes are built."""
        self._put_pipeline(replace(self.pipeline, damaged=(table,)))

    def parts_queued(self, snapshot_id: str) -> None:
        """The copy queue contains all parts that are copied under this snapshot."""
        self._put_pipeline(replace(self.pipeline, snapshot_id=snapshot_id))

    def queue_incomplete(self) -> None:
        """The parts must be queued again."""
        self._put_pipeline(replace(self.pipeline, snapshot_id=""))

    def flushed(self, lsn: Lsn) -> None:
        self._put_pipeline(replace(self.pipeline, flushed_lsn=lsn))

    # Changes by an operator.

    def addresses_changed(self, source: Endpoint | None, destination: Endpoint | None) -> None:
        """The databases have new addresses. None: the recorded address remains."""
        record = self.record
        source, destination = source or record.source, destination or record.destination
        self._put(replace(record, source=source, destination=destination))

    def objects_skipped(self, names: Sequence[str]) -> None:
        """names: more objects of the schema that are not restored."""
        options = self.record.options
        new = tuple(name for name in dict.fromkeys(names) if name not in options.skip_objects)
        options = replace(options, skip_objects=options.skip_objects + new)
        self._put(replace(self.record, options=options))

    def identities_put_back(self) -> None:
        """Replica identities on the source are restored. pgmig does not change them again."""
        self._put_pipeline(replace(self.pipeline, altered=()))

    async def changed(self) -> None:
        """Return after the next change."""
        await self._changes.wait()

    def sample(self, now: float) -> None:
        """Take one sample for the rates. now: a monotonic clock."""
        self.rates.observe(now, self.copying.totals() + self.following.totals())
