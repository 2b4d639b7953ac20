"""Tables go to phase copy in one step: nobody sees them listed while the migration still streams."""

from __future__ import annotations

import asyncio

import pytest

from services.coordinator.migration.record import DroppedTable, TableRecord
from services.coordinator.migration.state import Migration
from services.coordinator.tables.adopt import begin_copy
from services.shared.model import Endpoint, Lsn, MigrationOptions, Phase, TableId
from tests.support.records import make_record

KEPT, AGAIN, ADDED, LEAF = (TableId("s", name) for name in ("kept", "again", "added", "leaf"))


def in_phase(phase: Phase) -> Migration:
    record = make_record(
        migration_id="m",
        revision=7,
        phase=phase,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.5,
        phase_since=2.5,
        tables=(TableRecord(KEPT), TableRecord(AGAIN)),
        dropped=(DroppedTable(ADDED, Lsn(3)), DroppedTable(KEPT, Lsn(4))),
        damaged=(AGAIN, KEPT),
        applier_epoch="before",
        snapshot_id="before",
    )
    return Migration(record, lambda _: ())


@pytest.mark.parametrize("phase", [Phase.CATCHUP, Phase.STREAMING, Phase.COPY])
async def test_the_phase_is_copy_before_any_other_task_runs(phase: Phase) -> None:
    migration = in_phase(phase)
    others: list[Phase] = []
    asyncio.get_running_loop().call_soon(lambda: others.append(migration.phase))
    begin_copy(migration.active, [AGAIN, ADDED], "tables are copied again", [DroppedTable(LEAF, Lsn(5))])
    assert others == [], "something else has run in between"
    assert migration.phase is Phase.COPY
    await asyncio.sleep(0)
    assert others == [Phase.COPY]


async def test_the_record_forgets_what_the_new_copies_replace() -> None:
    migration = in_phase(Phase.STREAMING)
    begin_copy(migration.active, [AGAIN, ADDED], "tables are copied again", [DroppedTable(LEAF, Lsn(5))])
    record = migration.record
    assert {one.table for one in record.forward.tables} == {KEPT, AGAIN, ADDED}
    assert record.forward.damaged == (KEPT,)
    assert record.forward.dropped == (DroppedTable(KEPT, Lsn(4)), DroppedTable(LEAF, Lsn(5)))
    assert record.forward.applier_epoch not in {"", "before"}, "the applier of before has to be fenced"
    assert record.forward.snapshot_id == "", "the copy needs a new snapshot"
    assert record.events[-1].text == "tables are copied again: s.again, s.added"
