"""A migration in the coordinator's memory: its record and its pipelines.

What belongs to one pipeline is in its `PipelineStatus`. Each change of the record has a method, which is
named after the event. A change of phase or state is checked against the transitions in
`services.shared.model`. `touch` announces a change that is not in the record. Every change raises the
revision and wakes all watches. The clock is injected. Times are in Unix seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from services.coordinator.migration.certificates import announcement, issued, measured
from services.coordinator.migration.handover import HandoverLog
from services.coordinator.migration.operations import OperationLog, Operations, moved
from services.coordinator.migration.outcome import (
    BothOpened,
    Decision,
    Turn,
    both_opened,
    decided,
    ended,
    finalized,
)
from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import HandoverRecord, PipelineRecord, Record
from services.shared.model import (
    Direction,
    Endpoint,
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    MigrationId,
    MigrationPhase,
    OperationKind,
    OperationState,
    PgmigError,
    Phase,
    PipelineId,
    PipelineState,
    SwitchoverResult,
    WorkerView,
    check_end,
    check_phase_move,
    check_state,
    check_state_move,
)
from services.shared.model.lifecycle.migration_phase import HOME
from services.shared.model.view.certificate import StoredCertificate
from services.shared.pg.freeze.sessions import OwnSession
from services.shared.pg.freeze.thaw import Before
from services.shared.runtime.changes import Changes

EVENTS_KEPT = 200
REVISIONS_UNSAVED = 1000
"""Added to a revision that was read from disk. Progress that was not saved has raised it by less."""


class Migration:
    """on_change: called after every change. loaded_at: when this coordinator has taken it over from another
    one, which had counted what was applied until then; 0.0: it has started it."""

    def __init__(
        self,
        record: Record,
        workers: Callable[[PipelineId], tuple[WorkerView, ...]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """workers: returns the workers that work for a pipeline now."""
        self.record = record
        self.id = MigrationId.parse(record.migration_id)
        self._pipelines: dict[Direction, PipelineStatus] = {}
        self.needs_credentials = False
        self.removed = False
        self.loaded_at = 0.0
        self.on_change: Callable[[], None] = lambda: None
        self._workers = workers
        self._clock = clock
        self.operations = OperationLog(lambda: self.record.operations, self._put_operations, clock)
        self.handover = HandoverLog(lambda: self.record.handover, self._put_handover)
        self._changes = Changes()

    @property
    def phase(self) -> Phase:
        """For clients and messages."""
        return self.record.shown_phase

    def pipeline(self, direction: Direction) -> PipelineStatus:
        """Raises KeyError if the migration has no pipeline in that direction."""
        if direction not in self._pipelines:
            name = PipelineId(self.id, self.record.pipeline(direction).direction)
            self._pipelines[direction] = PipelineStatus(self, name)
        return self._pipelines[direction]

    @property
    def pipelines(self) -> tuple[PipelineStatus, ...]:
        """One for each pipeline of the record, the forward one first."""
        return tuple(self.pipeline(one.direction) for one in self.record.pipelines)

    def workers(self) -> tuple[WorkerView, ...]:
        """Those that work for one of its pipelines now."""
        found = [worker for name in self.record.pipeline_ids for worker in self._workers(name)]
        return tuple({worker.worker_id: worker for worker in found}.values())

    @property
    def active(self) -> PipelineStatus:
        """The pipeline that works, or that worked last."""
        return self.pipeline(self.record.active)

    @property
    def in_switchover(self) -> bool:
        """Whether a switchover or rollback has begun and is neither decided nor undone."""
        return self.record.phase.blocks

    @property
    def decided_last(self) -> bool:
        """Whether the phase shows that the last operation was decided."""
        operations = self.record.operations
        if operations and operations[-1].kind is OperationKind.ROLLBACK:
            return self.record.phase is MigrationPhase.MIGRATING
        return self.record.phase in {MigrationPhase.SWITCHED_OVER, MigrationPhase.REVERSE}

    @property
    def failure(self) -> Failure | None:
        """The failure of a pipeline or, if none has failed, of the last switchover."""
        return self.record.shown.failure or self.record.failure

    def put(self, record: Record) -> None:
        self.record = replace(record, revision=record.revision + 1)
        self._announce()

    def touch(self) -> None:
        """Announce a change outside the record."""
        self.put(self.record)

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
        line = Event(self._clock(), level, text, events[-1].number + 1 if events else 1)
        self.put(replace(self.record, events=(*events[-EVENTS_KEPT + 1 :], line)))

    # Changes of phase and state. If a transition is not allowed, they raise WRONG_PHASE and change nothing.

    def move(self, record: Record, pipeline: PipelineRecord, text: str = "") -> None:
        """Change to the phase and state of `record` and `pipeline`, with their other changes. text: the line
        for the event log."""
        now, state = self._clock(), self.record.pipeline(pipeline.direction).state
        if record.phase is not self.record.phase:
            check_phase_move(self.record.phase, record.phase)
            record = replace(record, phase_since=now)
        if pipeline.state is not state:
            check_state_move(state, pipeline.state)
            pipeline = replace(pipeline, state_since=now)
        check_state(record.phase, pipeline.state)
        self.put(record.with_pipeline(pipeline))
        level = EventLevel.ERROR if pipeline.state is PipelineState.FAILED else EventLevel.INFO
        self.event(level, text or f"phase {self.phase}")

    def _ended(self, phase: MigrationPhase) -> None:
        check_end(phase, self.active.state)
        pipeline = replace(self.active.record, state=PipelineState.ENDED, resume_state=None)
        record = replace(self.record, phase=phase)
        if (idle := record.idle) is not None:
            record = record.with_pipeline(replace(idle, state=PipelineState.ENDED))
        self.move(record, pipeline)

    def finalized(self) -> None:
        """The direction does not change any more: what was needed for that is removed now. Raises
        WRONG_PHASE."""
        self.put(finalized(self.record, self._clock()))
        self.event(EventLevel.INFO, f"phase {self.phase}")

    def both_opened(self, opened: BothOpened) -> None:
        """Both sides may be written to from now on, and both pipelines work. Raises WRONG_PHASE."""
        record = both_opened(self.record, opened, self._clock())
        self._pipelines.clear()  # what was reported about the forward pipeline's run until now is forgotten
        self.put(record)
        self.event(EventLevel.INFO, f"phase {self.phase}")

    def both_ended(self) -> None:
        """Both pipelines have ended. Both sides stay as they are. Raises WRONG_PHASE."""
        self.put(ended(self.record, MigrationPhase.COMPLETE, self._clock()))
        self.event(EventLevel.INFO, f"phase {self.phase}")

    def parted(self) -> None:
        """Each of the two sides may go on alone."""
        self.put(replace(self.record, parted=True))

    def completed(self) -> None:
        """Everything is copied. No changes are replicated."""
        self._ended(MigrationPhase.COMPLETE)

    def aborted(self) -> None:
        # A switchover that could not be undone is abandoned.
        if self.record.phase is MigrationPhase.SWITCHOVER and self.active.state is PipelineState.FAILED:
            self.record = replace(self.record, phase=MigrationPhase.MIGRATING)
        if self.record.phase is MigrationPhase.BIDIRECTIONAL:
            self.put(ended(self.record, MigrationPhase.ABORTED, self._clock()))
            self.event(EventLevel.INFO, f"phase {self.phase}")
            return
        self._ended(MigrationPhase.ABORTED)

    def left_behind(self, left: tuple[str, ...]) -> None:
        """left: what an abort or a cleanup could not remove."""
        self.put(replace(self.record, left=left))

    def began_switchover(self, freeze: Before) -> None:
        """freeze: how to thaw the side that is frozen. It is frozen only after this has been stored. The same
        write stores that the operation runs, so that no later coordinator begins it again. Raises WRONG_PHASE
        if there is no operation that has not ended."""
        operation = self.operations.current
        back = operation is not None and operation.kind is OperationKind.ROLLBACK
        phase = MigrationPhase.ROLLBACK if back else MigrationPhase.SWITCHOVER
        check_phase_move(self.record.phase, phase)
        if operation is None:
            raise PgmigError(ErrorKind.WRONG_PHASE, f"no switchover of migration {self.id} was requested")
        record = replace(
            self.record.with_frozen(self.record.active, freeze),
            phase=phase,
            failure=None,
            operations=moved(self.record.operations, OperationState.RUNNING, self._clock()),
        )
        self.move(record, self.active.record)

    def switchover_undone(self) -> None:
        """It is undone: applications can write again to the side that was frozen."""
        home = HOME.get(self.record.phase, MigrationPhase.MIGRATING)
        check_phase_move(self.record.phase, home)
        record = replace(self.record.with_frozen(self.record.active, None), phase=home)
        pipeline = self.active.record
        if pipeline.resume_state is PipelineState.STREAMING:  # the pipeline failed during the switchover
            pipeline = replace(pipeline, resume_state=PipelineState.CATCHUP)
        side = self.active.id.publisher
        self.move(record, pipeline, f"writers may write to the {side} again")

    def decided(
        self, result: SwitchoverResult, certificate: StoredCertificate | None = None, turn: Turn | None = None
    ) -> Record:
        """Return the record of a decided switchover or rollback, for the store. Changes nothing. certificate:
        its draft. turn: where the opposite direction starts; None: the migration ends. Raises WRONG_PHASE."""
        record = decided(self.record, Decision(result, certificate, turn))
        return replace(record, revision=record.revision + 1)

    def switched_over(
        self, result: SwitchoverResult, certificate: StoredCertificate | None = None, turn: Turn | None = None
    ) -> None:
        """The store has the decision. It is valid, whatever has happened in this process since then."""
        before = self.record.active
        record = decided(self.record, Decision(result, certificate, turn), proven=True)
        if (
            record.active is not before
        ):  # what was reported about an earlier run of that pipeline is forgotten
            self._pipelines.pop(record.active, None)
        self.put(record)

    def turn_intended(self, pipeline: PipelineRecord) -> None:
        """pipeline: idle, in the direction opposite to the one that works. It is about to be prepared."""
        self.put(self.record.with_pipeline(pipeline))

    # The switchover.

    def switchover_failed(self, failure: Failure) -> None:
        """The switchover was rolled back or could not begin. The migration continues."""
        self.put(replace(self.record, failure=failure))

    def warned(self, warnings: tuple[str, ...]) -> None:
        """warnings: what failed after the decision, in place of those before. Not part of the certificate."""
        if self.record.switchover is not None and warnings != self.record.switchover.warnings:
            self.put(replace(self.record, switchover=replace(self.record.switchover, warnings=warnings)))

    def downtime_measured(self, result: SwitchoverResult, *, workers_stopped: bool) -> None:
        record = measured(self.record, result, workers_stopped=workers_stopped)
        self.put(replace(record, switchover=result))

    def certificate_issued(self) -> None:
        """The store has it."""
        self.put(issued(self.record))
        self.announce_certificate()

    def announce_certificate(self) -> None:
        """Add a line to the event log, unless it has it."""
        if (line := announcement(self.record)) is not None:
            self.event(*line)

    def thaw_claimed(self, direction: Direction, sessions: tuple[OwnSession, ...]) -> None:
        """sessions: the sessions with which this coordinator is about to thaw the database that the pipeline
        of that direction replicates from."""
        freeze = self.record.frozen(direction)
        assert freeze is not None
        self.put(self.record.with_frozen(direction, replace(freeze, sessions=sessions)))

    def thawed(self, direction: Direction) -> None:
        """The freeze has been removed completely from that database."""
        self.put(self.record.with_frozen(direction, None))

    def _put_operations(self, operations: Operations) -> None:
        self.put(replace(self.record, operations=operations))

    def _put_handover(self, handover: HandoverRecord) -> None:
        self.put(replace(self.record, handover=handover))

    # Changes by an operator.

    def addresses_changed(self, source: Endpoint | None, destination: Endpoint | None) -> None:
        """The databases have new addresses. None: the recorded address remains."""
        record = self.record
        source, destination = source or record.source, destination or record.destination
        self.put(replace(record, source=source, destination=destination))

    def objects_skipped(self, names: Sequence[str]) -> None:
        """names: more objects of the schema that are not restored."""
        options = self.record.options
        new = tuple(name for name in dict.fromkeys(names) if name not in options.skip_objects)
        options = replace(options, skip_objects=options.skip_objects + new)
        self.put(replace(self.record, options=options))

    async def changed(self) -> None:
        """Return after the next change."""
        await self._changes.wait()
