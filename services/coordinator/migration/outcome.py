"""The decision of a switchover or rollback, and the end of the way back, as changes of the record; also the
beginning and the end of a time in which both sides are written to.

A decision ends the migration, or it changes the direction: the pipeline that worked is idle from then on, and
the one in the opposite direction starts without a copy (services.shared.pg.reverse). One write stores all of
that, so that no coordinator sees two pipelines that work, or none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.coordinator.migration.certificates import added
from services.coordinator.migration.record import Record, SlotRecord
from services.shared.model import (
    Direction,
    ErrorKind,
    MigrationPhase,
    PgmigError,
    PipelineState,
    SwitchoverResult,
    check_end,
    check_phase_move,
)
from services.shared.model.lifecycle.migration_phase import BOTH_FROM, TURNS
from services.shared.model.milestone import Milestone
from services.shared.model.view.certificate import StoredCertificate


@dataclass(frozen=True, slots=True)
class Turn:
    """start: where the pipeline of the opposite direction starts, on the new primary. epoch: a new one, that
    no applier of the pipeline that worked has. milestone: written on the side that is left when nobody else
    could write there any more."""

    start: SlotRecord
    epoch: str
    milestone: Milestone | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """certificate: the draft. turn: None if the migration ends."""

    result: SwitchoverResult
    certificate: StoredCertificate | None = None
    turn: Turn | None = None


def decided(record: Record, decision: Decision, *, proven: bool = False) -> Record:
    """proven: the store has the decision, so nothing is checked. Raises WRONG_PHASE."""
    result, certificate, now = decision.result, decision.certificate, decision.result.finished_at
    phase = MigrationPhase.SWITCHED_OVER if decision.turn is None else TURNS[record.phase]
    worked = record.pipeline(record.active)
    if not proven:
        check_phase_move(record.phase, phase)
        check_end(MigrationPhase.SWITCHED_OVER, worked.state)
    flushed = max(worked.flushed_lsn, result.sentinel_lsn)
    worked = replace(worked, state_since=now, flushed_lsn=flushed, resume_state=None)
    record = replace(
        record,
        phase=phase,
        phase_since=now,
        switchover=result,
        certificates=added(record.certificates, certificate) if certificate else record.certificates,
    )
    if decision.turn is None:
        closed = record.freeze is not None and record.freeze.database
        record = replace(record, freeze=record.freeze if closed else None)  # else there is nothing to thaw
        if (idle := record.idle) is not None:
            record = record.with_pipeline(replace(idle, state=PipelineState.ENDED, state_since=now))
        return record.with_pipeline(replace(worked, state=PipelineState.ENDED))
    left = replace(worked, state=PipelineState.IDLE, applier_epoch=decision.turn.epoch, retired=False)
    other = record.pipeline(record.active.opposite)
    works = replace(
        other,
        state=PipelineState.CATCHUP,
        state_since=now,
        slot=decision.turn.start,
        flushed_lsn=decision.turn.start.consistent_lsn,
        turn=other.turn + 1,
        milestone=decision.turn.milestone,
    )
    return replace(record.with_pipeline(left).with_pipeline(works), active=works.direction)


def finalized(record: Record, now: float) -> Record:
    """The migration has switched over, and there is no way back. Raises WRONG_PHASE."""
    record = ended(record, MigrationPhase.SWITCHED_OVER, now)
    return replace(record, active=record.active.opposite)


def ended(record: Record, phase: MigrationPhase, now: float) -> Record:
    """All pipelines end. Raises WRONG_PHASE."""
    check_phase_move(record.phase, phase)
    for pipeline in record.pipelines:
        record = record.with_pipeline(
            replace(pipeline, state=PipelineState.ENDED, state_since=now, resume_state=None, failure=None)
        )
    return replace(record, phase=phase, phase_since=now, failure=None)


@dataclass(frozen=True, slots=True)
class BothOpened:
    """Both sides have the same rows, except for what the source has committed since. forward_seen_us,
    reverse_seen_us: see `PipelineRecord.seen_us`. epoch: a new one, of the forward pipeline's appliers.
    forward_milestone, reverse_milestone: written on the destination and on the source, after all that was
    done there."""

    forward_seen_us: int
    reverse_seen_us: int
    epoch: str
    forward_milestone: Milestone
    reverse_milestone: Milestone


def both_opened(record: Record, opened: BothOpened, now: float) -> Record:
    """Both pipelines work from now on. The reverse one is prepared and idle. Raises WRONG_PHASE."""
    check_phase_move(record.phase, MigrationPhase.BIDIRECTIONAL)
    if record.forward.state not in BOTH_FROM:
        state = record.forward.state
        raise PgmigError(
            ErrorKind.WRONG_PHASE, f"a migration whose pipeline is {state} cannot be bidirectional"
        )
    forward, reverse = record.forward, record.pipeline(Direction.REVERSE)
    assert reverse.slot is not None
    starts = PipelineState.CATCHUP
    forward = replace(
        forward,
        state=starts,
        state_since=now,
        turn=forward.turn + 1,
        applier_epoch=opened.epoch,
        seen_us=opened.forward_seen_us,
        milestone=opened.forward_milestone,
    )
    reverse = replace(
        reverse,
        state=starts,
        state_since=now,
        turn=reverse.turn + 1,
        flushed_lsn=reverse.slot.consistent_lsn,
        seen_us=opened.reverse_seen_us,
        milestone=opened.reverse_milestone,
    )
    record = record.with_pipeline(forward).with_pipeline(reverse)
    return replace(record, phase=MigrationPhase.BIDIRECTIONAL, phase_since=now)
