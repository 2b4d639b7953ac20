"""The record of a migration with a forward and a reverse pipeline."""

from __future__ import annotations

from services.coordinator.migration.record import PipelineRecord, Record, SlotRecord, pack, unpack
from services.coordinator.migration.state import Migration
from services.coordinator.migration.views import view_of
from services.coordinator.pipeline.credentials import Credentials, KnownCredentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.shared.model import (
    ApplierProgress,
    Direction,
    Endpoint,
    ErrorKind,
    Failure,
    Lsn,
    MigrationOptions,
    Phase,
    PipelineState,
    Role,
    TableId,
    WorkerView,
)
from services.shared.runtime.changes import Changes
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
    migration = Migration(both(), lambda _: ())
    migration.active.failed(Failure(ErrorKind.GAP, "gone"))
    migration.active.flushed(Lsn(9))
    assert migration.record.pipeline(Direction.REVERSE) == REVERSE
    view = view_of(migration)
    assert [(one.direction, one.state) for one in view.pipelines] == [
        (Direction.FORWARD, PipelineState.FAILED),
        (Direction.REVERSE, PipelineState.CREATED),
    ]
    assert (view.phase, view.resume_phase) == (Phase.FAILED, Phase.CATCHUP)


def test_each_has_progress_and_ends_of_its_own() -> None:
    migration = Migration(both(), lambda _: ())
    forward, reverse = migration.pipelines
    assert (forward.source, forward.destination) == (reverse.destination, reverse.source)
    reverse.following.source_at(1.0, Lsn(30))
    reverse.following.applier(ApplierProgress("a", Lsn(20), Lsn(20), 1.0, 3, 1, 10))
    forward.sample(1.0)
    ways = {one.direction: one for one in view_of(migration).pipelines}
    assert ways[Direction.REVERSE].positions.lag_bytes == 10
    assert ways[Direction.REVERSE].rates.rows_applied == 3
    assert ways[Direction.FORWARD].positions.source_lsn == Lsn(0)
    assert ways[Direction.FORWARD].rates.rows_applied == 0


def test_workers_of_both_are_those_of_the_migration() -> None:
    of_both = WorkerView("applier", Role.APPLIER, "h")
    workers = {
        Direction.FORWARD: (of_both,),
        Direction.REVERSE: (of_both, WorkerView("d", Role.DECODER, "h")),
    }
    migration = Migration(both(), lambda pipeline: workers[pipeline.direction])
    assert [one.worker_id for one in migration.workers()] == ["applier", "d"]


async def test_connection_strings_are_those_of_the_ends_of_a_pipeline() -> None:
    known = KnownCredentials(Migration(both(), lambda _: ()), Credentials(), Changes())
    known.accept(Credentials("host=a port=1 dbname=b user=c", "host=d port=2 dbname=e user=f"))
    forward, reverse = (PipelineEnds(known, direction) for direction in Direction)
    assert (await reverse.both()).swapped() == await forward.both() == known.known
    assert await reverse.source() == await forward.known_destination() == known.known.destination_uri
    assert await reverse.known_destination() == await forward.source() == known.known.source_uri
