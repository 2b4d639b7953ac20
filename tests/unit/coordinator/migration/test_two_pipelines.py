"""The record of a migration with a forward and a reverse pipeline."""

from __future__ import annotations

from services.coordinator.migration.record import PipelineRecord, Record, SlotRecord, pack, unpack
from services.coordinator.migration.state import Migration
from services.coordinator.migration.views import view_of
from services.shared.model import (
    Direction,
    Endpoint,
    ErrorKind,
    Failure,
    Lsn,
    MigrationOptions,
    Phase,
    PipelineState,
    TableId,
)
from tests.support.records import make_record
from tests.unit.model.test_names import shared_names

REVERSE = PipelineRecord(
    Direction.REVERSE,
    PipelineState.CREATED,
    3.0,
    slot=SlotRecord(Lsn(7), "6944", 1),
    published=(TableId("s", "t"),),
)


def both() -> Record:
    forward = make_record(
        "m",
        7,
        Phase.STREAMING,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.5,
        phase_since=2.5,
        slot=SlotRecord(Lsn(5), "6943", 1),
    )
    return forward.with_pipeline(REVERSE)


def test_both_are_stored_and_found_again() -> None:
    record = both()
    assert unpack(pack(record)) == record
    assert record.pipeline(Direction.REVERSE) == REVERSE
    assert record.forward.slot == SlotRecord(Lsn(5), "6943", 1)


def test_no_name_of_one_is_a_name_of_the_other() -> None:
    forward, reverse = both().pipeline_ids
    assert (str(forward), str(reverse)) == ("m/forward", "m/reverse")
    assert shared_names(forward, reverse) == []


def test_a_change_of_one_leaves_the_other_as_it_is() -> None:
    migration = Migration(both(), lambda: ())
    migration.failed(Failure(ErrorKind.GAP, "gone"))
    migration.flushed(Lsn(9))
    assert migration.record.pipeline(Direction.REVERSE) == REVERSE
    view = view_of(migration)
    assert [(one.direction, one.state) for one in view.pipelines] == [
        (Direction.FORWARD, PipelineState.FAILED),
        (Direction.REVERSE, PipelineState.CREATED),
    ]
    assert (view.phase, view.resume_phase) == (Phase.FAILED, Phase.CATCHUP)
