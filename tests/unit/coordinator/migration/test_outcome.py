"""The change of direction in the record, and which workers it leaves."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from services.coordinator.migration.outcome import Decision, Turn, decided, finalized
from services.coordinator.migration.record import PipelineRecord, Record, SlotRecord
from services.coordinator.migration.state import Migration
from services.coordinator.operations import settling
from services.coordinator.operations.readiness import check_ready
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.reports import Reports
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.pipeline.staffing import Staffing, assignment_prefix
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.model import (
    AssignmentRef,
    Direction,
    Endpoint,
    ErrorKind,
    Lsn,
    MigrationOptions,
    MigrationPhase,
    OperationKind,
    PgmigError,
    Phase,
    PipelineState,
    Role,
    SwitchoverResult,
)
from services.shared.pg.freeze.thaw import Before
from services.shared.pg.guard.read_only import Guard
from services.shared.runtime.changes import Changes
from tests.support.records import make_record

RESULT = SwitchoverResult(Lsn(500), 10, 1, 9.0)
START = SlotRecord(Lsn(77), "system", 3)
FROZEN = Before("", 1.0, "db", "postgres")


def switching() -> Record:
    """Forward works and is frozen; reverse is prepared."""
    record = make_record(
        migration_id="m",
        revision=7,
        phase=Phase.SWITCHOVER,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.5,
        phase_since=2.5,
        instance="i",
        freeze=FROZEN,
    )
    idle = PipelineRecord(Direction.REVERSE, PipelineState.IDLE, 3.0, applier_epoch="prepared")
    return record.with_pipeline(idle)


def turned() -> Record:
    return decided(switching(), Decision(RESULT, turn=Turn(START, "fresh")))


def rolling_back() -> Record:
    record = turned()
    streaming = replace(record.pipeline(Direction.REVERSE), state=PipelineState.STREAMING)
    return replace(record.with_pipeline(streaming), phase=MigrationPhase.ROLLBACK)


def test_one_write_ends_one_direction_and_starts_the_other() -> None:
    record = turned()
    left, works = record.forward, record.pipeline(Direction.REVERSE)
    assert (record.phase, record.active) == (MigrationPhase.REVERSE, Direction.REVERSE)
    assert (left.state, left.applier_epoch, left.retired) == (PipelineState.IDLE, "fresh", False)
    assert (works.state, works.slot, works.turn) == (PipelineState.CATCHUP, START, 1)
    assert (works.flushed_lsn, works.applier_epoch) == (Lsn(77), "prepared")
    assert record.freeze == FROZEN  # the side that was left stays read-only
    assert record.switchover == RESULT
    assert record.shown_phase is Phase.REVERSE


def test_a_rollback_returns_to_the_phase_in_which_another_switchover_is_possible() -> None:
    record = decided(rolling_back(), Decision(RESULT, turn=Turn(START, "newer")))
    assert (record.phase, record.active) == (MigrationPhase.MIGRATING, Direction.FORWARD)
    assert record.shown_phase is Phase.CATCHUP
    assert (record.forward.turn, record.pipeline(Direction.REVERSE).state) == (1, PipelineState.IDLE)


def test_finalize_ends_both_pipelines() -> None:
    record = finalized(turned(), 11.0)
    assert record.phase is MigrationPhase.SWITCHED_OVER
    assert {one.state for one in record.pipelines} == {PipelineState.ENDED}
    with pytest.raises(PgmigError):
        finalized(rolling_back(), 11.0)


def reports(record: Record, direction: Direction) -> Reports:
    registry = WorkerRegistry()
    status = Migration(record, lambda _: ()).pipeline(direction)
    return Reports(status, Snapshot(status.id, registry, Changes()), Changes())


def offered(record: Record, direction: Direction) -> AssignmentRef:
    """What a worker of the pipeline's present run offers after a restart of the coordinator."""
    name = Migration(record, lambda _: ()).pipeline(direction).id
    return AssignmentRef(f"{assignment_prefix(record, direction)}-0a1b-c0ffee", name, Role.APPLIER)


def test_workers_of_an_idle_pipeline_are_not_accepted() -> None:
    before, after = switching(), turned()
    assert reports(before, Direction.FORWARD).accepts(offered(before, Direction.FORWARD))
    assert not reports(after, Direction.FORWARD).accepts(offered(after, Direction.FORWARD))
    assert reports(after, Direction.REVERSE).accepts(offered(after, Direction.REVERSE))


def test_workers_of_an_earlier_run_of_a_pipeline_are_not_accepted() -> None:
    first = switching()
    again = decided(rolling_back(), Decision(RESULT, turn=Turn(START, "newer")))
    assert not reports(again, Direction.FORWARD).accepts(offered(first, Direction.FORWARD))
    assert not reports(first, Direction.FORWARD).accepts(offered(again, Direction.FORWARD))
    assert reports(again, Direction.FORWARD).accepts(offered(again, Direction.FORWARD))


def test_what_was_reported_about_an_earlier_run_is_forgotten() -> None:
    migration = Migration(switching(), lambda _: ())
    known = migration.pipeline(Direction.REVERSE)
    known.following.live = True
    migration.switched_over(RESULT, None, Turn(START, "fresh"))
    assert migration.pipeline(Direction.REVERSE) is not known
    assert not migration.pipeline(Direction.REVERSE).following.live
    assert migration.pipeline(Direction.REVERSE).following.flushed == Lsn(77)


@pytest.mark.parametrize("direction", Direction)
def test_only_local_transactions_are_replicated_once_the_direction_has_changed(direction: Direction) -> None:
    again = decided(rolling_back(), Decision(RESULT, turn=Turn(START, "newer")))
    status = Migration(again, lambda _: ()).pipeline(direction)
    registry = WorkerRegistry()
    staffing = Staffing(
        status,
        registry,
        cast(PipelineEnds, NoEnds()),
        Snapshot(status.id, registry, Changes()),
        Routing(),
        embedded=False,
        restored=False,
    )
    assert staffing._decoder_work().local_only


class NoEnds:
    class known:  # noqa: N801
        source_uri = destination_uri = ""
        complete = False
        addresses = ()


@pytest.mark.parametrize("left", ["guard", "freeze"])
def test_no_operation_begins_while_the_new_primary_is_being_opened(left: str) -> None:
    record = turned()
    if left == "guard":
        record = record.with_pipeline(replace(record.forward, guard=Guard("db", "", 1.0)))
    else:
        record = replace(record, destination_freeze=FROZEN)
    with pytest.raises(PgmigError) as caught:
        check_ready(Migration(record, lambda _: ()), OperationKind.ROLLBACK)
    assert caught.value.kind is ErrorKind.WRONG_PHASE
    check_ready(Migration(turned(), lambda _: ()), OperationKind.ROLLBACK)
    with pytest.raises(PgmigError):
        check_ready(Migration(turned(), lambda _: ()), OperationKind.SWITCHOVER)
    with pytest.raises(PgmigError):
        check_ready(
            Migration(replace(switching(), phase=MigrationPhase.MIGRATING), lambda _: ()),
            OperationKind.ROLLBACK,
        )


def test_a_rollback_that_cannot_be_undone_is_not_aborted() -> None:
    """The destination serves writers: nothing may open the source, which an abort would do."""
    record = rolling_back()
    failed = replace(record.pipeline(Direction.REVERSE), state=PipelineState.FAILED)
    migration = Migration(record.with_pipeline(failed), lambda _: ())
    with pytest.raises(PgmigError) as caught:
        migration.aborted()
    assert caught.value.kind is ErrorKind.WRONG_PHASE
    assert migration.record.phase is MigrationPhase.ROLLBACK


def test_only_a_migration_that_ended_in_reverse_is_finalized() -> None:
    streaming = replace(turned().pipeline(Direction.REVERSE), state=PipelineState.STREAMING)
    record = finalized(turned().with_pipeline(streaming), 1.0)
    assert record.finalized
    assert not turned().finalized
    plain = decided(switching(), Decision(RESULT))
    assert (plain.phase, plain.finalized) == (MigrationPhase.SWITCHED_OVER, False)


def test_the_destination_is_closed_until_the_freeze_of_a_rollback_is_undone() -> None:
    record = replace(decided(switching(), Decision(RESULT)), destination_freeze=FROZEN)
    assert closed_in(record)
    assert not closed_in(replace(record, destination_freeze=None))


def closed_in(record: Record) -> bool:
    return settling.closed(cast("Context", SimpleNamespace(migration=Migration(record, lambda _: ()))))
