"""One pipeline of a migration in the coordinator's memory: its record, and the progress that workers report.

Each change of the record has a method, which is named after the event. A change of state is checked against
the transitions in `services.shared.model` and against the phase of the migration. The record of the migration
contains that of the pipeline.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from services.coordinator.migration.copy_progress import CopyProgress
from services.coordinator.migration.rates import RateMeter
from services.coordinator.migration.readiness import ServersSeen
from services.coordinator.migration.record import DroppedTable, PipelineRecord, SlotRecord
from services.coordinator.migration.stream_progress import StreamProgress
from services.shared.model import (
    Endpoint,
    Failure,
    IndexProgress,
    Lsn,
    PipelineId,
    PipelineState,
    SkippedTransaction,
    TableFile,
    TableId,
    check_state_move,
    failure_event,
)
from services.shared.model.milestone import Milestone
from services.shared.pg.catalog.replica_identity import Published
from services.shared.pg.freeze.thaw import Before
from services.shared.pg.guard.read_only import Guard
from services.shared.pg.reverse.ends import EndSessions

if TYPE_CHECKING:
    from services.coordinator.migration.state import Migration


class PipelineStatus:
    """servers: what the ends of the pipeline showed when they were last asked about a switchover."""

    def __init__(self, migration: Migration, pipeline_id: PipelineId) -> None:
        self.migration = migration
        self.id = pipeline_id
        self.copying = CopyProgress(self.record.tables)
        self.following = StreamProgress(self.record.flushed_lsn)
        self.indexes = IndexProgress()
        self.servers = ServersSeen()
        self.rates = RateMeter()

    @property
    def record(self) -> PipelineRecord:
        return self.migration.record.pipeline(self.id.direction)

    @property
    def state(self) -> PipelineState:
        return self.record.state

    @property
    def source(self) -> Endpoint:
        """The database that it replicates from."""
        return self.migration.record.ends(self.id.direction)[0]

    @property
    def destination(self) -> Endpoint:
        """The database that it replicates to."""
        return self.migration.record.ends(self.id.direction)[1]

    @property
    def freeze(self) -> Before | None:
        """How to thaw its source. None: it is not frozen."""
        return self.migration.record.frozen(self.id.direction)

    @property
    def works(self) -> bool:
        """It works, or worked last."""
        return self.migration.record.works(self.id.direction)

    @property
    def running(self) -> bool:
        """The coordinator drives it on by itself."""
        return self.record.state.running

    @property
    def without_copy(self) -> bool:
        """It was started at a position of its source at which both sides had the same rows, or both sides
        have been written to since."""
        return self.record.turn > 0

    def sessions_claimed(self, sessions: EndSessions) -> None:
        """sessions: with which this coordinator is about to create or remove what the pipeline needs."""
        self.put(replace(self.record, sessions=sessions))

    def retired(self) -> None:
        """Nothing of it is left on the servers, except what keeps its appliers out."""
        self.put(replace(self.record, retired=True, slot=None, altered=(), sessions=EndSessions()))

    def put(self, record: PipelineRecord) -> None:
        """Replace the record, without a change of state."""
        self.migration.put(self.migration.record.with_pipeline(record))

    def touch(self) -> None:
        """Announce a change outside the record."""
        self.migration.touch()

    # Changes of state. If a transition is not allowed, they raise WRONG_PHASE and change nothing.

    def entered(self, state: PipelineState) -> None:
        """The pipeline has entered the next state, or the one before because the applier fell behind."""
        self.migration.move(self.migration.record, replace(self.record, state=state))

    def _halted(self, state: PipelineState) -> PipelineRecord:
        """The pipeline, halted. `resumed` returns to the current state. A pipeline that was streaming has to
        catch up first, except during a switchover, which begins only while the pipeline streams."""
        resume = self.state
        if resume is PipelineState.STREAMING and not self.migration.in_switchover:
            resume = PipelineState.CATCHUP
        return replace(self.record, state=state, resume_state=resume)

    def paused(self) -> None:
        self.migration.move(self.migration.record, self._halted(PipelineState.PAUSED))

    def failed(self, failure: Failure) -> None:
        check_state_move(self.state, PipelineState.FAILED)
        pipeline = replace(self._halted(PipelineState.FAILED), failure=failure)
        self.migration.move(self.migration.record, pipeline, failure_event(failure))

    def resumed(self, skipped: SkippedTransaction | None = None) -> None:
        """Return to the state before the pause or failure. skipped: skipped by an operator."""
        pipeline = self.record
        assert pipeline.resume_state is not None
        audit = pipeline.skipped if skipped is None else (*pipeline.skipped, skipped)
        pipeline = replace(
            pipeline, state=pipeline.resume_state, resume_state=None, failure=None, skipped=audit
        )
        self.migration.move(replace(self.migration.record, failure=None), pipeline)

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
        pipeline = self.record
        pipeline = replace(
            pipeline,
            tables=self.copying.records(),
            dropped=tuple(dropped),
            damaged=tuple(table for table in pipeline.damaged if table not in copied_again),
            applier_epoch=applier_epoch,
            snapshot_id="",
        )
        if pipeline.state is PipelineState.COPY:
            self.put(pipeline)
        else:
            pipeline = replace(pipeline, state=PipelineState.COPY, resume_state=None, failure=None)
            self.migration.move(replace(self.migration.record, failure=None), pipeline)

    # Replicated and copied tables.

    def slot_ready(self, slot: SlotRecord) -> None:
        self.put(replace(self.record, slot=slot))

    def publication_chosen(self, chosen: Published) -> None:
        pipeline = replace(
            self.record,
            published=chosen.whole,
            inserts_only=chosen.inserts_only,
            copied_only=chosen.copied_only,
            altered=chosen.altered,
            sends_generated=chosen.sends_generated,
        )
        self.put(pipeline)

    def tables_chosen(self, tables: tuple[TableId, ...]) -> None:
        """tables: those that are copied, by a migration that replicates no changes."""
        self.put(replace(self.record, published=tables))

    def files_noted(self, files: Sequence[TableFile]) -> None:
        """files: relation files of more published tables. A TRUNCATE is detected by a change of the file."""
        self.put(replace(self.record, files=(*self.record.files, *files)))

    def copies_noted(self) -> None:
        """Record the tables of `copying`."""
        self.put(replace(self.record, tables=self.copying.records()))

    def tables_dropped(self, dropped: Sequence[DroppedTable]) -> None:
        """Record the tables of `copying` too. dropped: replaces the recorded list."""
        self.put(replace(self.record, tables=self.copying.records(), dropped=tuple(dropped)))

    def floors_kept(self, dropped: Sequence[DroppedTable]) -> None:
        """dropped: replaces the list of tables that have no record of a copy."""
        self.put(replace(self.record, dropped=tuple(dropped)))

    def damage_found(self, table: TableId) -> None:
        """The table is copied again before indexes are built."""
        self.put(replace(self.record, damaged=(table,)))

    def parts_queued(self, snapshot_id: str) -> None:
        """The copy queue contains all parts that are copied under this snapshot."""
        self.put(replace(self.record, snapshot_id=snapshot_id))

    def queue_incomplete(self) -> None:
        """The parts must be queued again."""
        self.put(replace(self.record, snapshot_id=""))

    def flushed(self, lsn: Lsn) -> None:
        self.put(replace(self.record, flushed_lsn=lsn))

    def milestone_reached(self, milestone: Milestone) -> None:
        """The side that the pipeline writes to has what the phase has done, and must not lose it."""
        self.put(replace(self.record, milestone=milestone))

    def identities_put_back(self) -> None:
        """Replica identities on the source are restored. pgmig does not change them again."""
        self.put(replace(self.record, altered=()))

    # The guard of the destination.

    def guard_claimed(self, guard: Guard) -> None:
        """guard: how to let others write to the destination again. They are kept out only after this has been
        stored."""
        self.put(replace(self.record, guard=guard))

    def guard_lifted(self) -> None:
        """Others can write to the destination."""
        self.put(replace(self.record, guard=None))

    def writes_watched(self, *, watched: bool) -> None:
        """watched: the destination has, or may have, triggers that record writes of others."""
        self.put(replace(self.record, watched=watched))

    def sample(self, now: float) -> None:
        """Take one sample for the rates. now: a monotonic clock."""
        self.rates.observe(now, self.copying.totals() + self.following.totals())
