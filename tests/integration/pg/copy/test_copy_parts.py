"""Tables copied in several parts, and parts whose plan is given up while they are copied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from services.shared.model import (
    CopyPart,
    CopyPlan,
    CtidRange,
    ErrorKind,
    KeyRange,
    MigrationId,
    PartRange,
    PgmigError,
    Split,
    TableId,
)
from services.shared.pg.bookkeeping.copy_ledger import (
    CopyLedger,
    read_ledger,
    read_ledger_alone,
    replace_plans,
)
from services.shared.pg.copy.part import Copied, PartCopier
from services.shared.pg.copy.table import empty_for_parts
from services.shared.pg.session.connection import connection
from tests.fakes.copier_coordinator import closed_gate, make_gate
from tests.support.copying.databases import count, execute, exported_snapshot, keep_books, part, scalar

PIPELINE = MigrationId("m1").forward
T = TableId("public", "t")
ROWS = 5000


@dataclass(frozen=True, slots=True)
class Bed:
    source: str
    dest: str

    async def copy(self, given: CopyPart) -> Copied | None:
        copier = PartCopier(self.source, self.dest, PIPELINE)
        try:
            return await copier.copy(given, lambda _rows, _size: None)
        finally:
            await copier.close()

    async def ledger(self) -> CopyLedger:
        async with connection(self.dest, "destination") as conn:
            return await read_ledger(conn, PIPELINE)

    async def give_plan(self, epoch: str, *, forget: tuple[str, ...] = (), empty: bool = True) -> None:
        """Like the coordinator does it."""
        async with connection(self.dest, "destination") as conn, conn.transaction():
            await read_ledger_alone(conn, PIPELINE)
            await empty_for_parts(conn, [T] if empty else [])
            await replace_plans(conn, PIPELINE, [CopyPlan(T, epoch, "", Split(2, pages=9))], forget)


@pytest.fixture
async def bed(source_db: str, dest_db: str) -> AsyncIterator[Bed]:
    await keep_books(dest_db)
    execute(source_db, "CREATE TABLE t (a int, b text)")
    execute(source_db, f"INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, {ROWS}) AS n")
    execute(dest_db, "CREATE TABLE t (b text, a int)")
    yield Bed(source_db, dest_db)


def cut(whole: CopyPart, *ranges: PartRange, epoch: str = "") -> list[CopyPart]:
    return [
        replace(whole, part_id=f"t {number}", rows=one, epoch=epoch) for number, one in enumerate(ranges, 1)
    ]


PAGES = int(ROWS / 50)
BY_CTID = (CtidRange(0, 7), CtidRange(7, 8), CtidRange(8, PAGES), CtidRange(PAGES, None))
BY_KEY = (
    KeyRange("a", None, -5),
    KeyRange("a", -5, 2000),
    KeyRange("a", 2000, 4900),
    KeyRange("a", 4900, None),
)


@pytest.mark.parametrize("ranges", [BY_CTID, BY_KEY], ids=["ctid", "key"])
@pytest.mark.parametrize("binary", [True, False])
async def test_parts_together_are_the_table(bed: Bed, ranges: tuple[PartRange, ...], binary: bool) -> None:
    with exported_snapshot(bed.source) as snapshot:
        execute(bed.source, "INSERT INTO t VALUES (0, 'later')", "UPDATE t SET b = 'later'")
        whole = part("t", "a", "b", snapshot=snapshot, binary=binary)
        copied = [await bed.copy(one) for one in cut(whole, *ranges)]
    rows = [one.rows for one in copied if one is not None]
    assert sum(rows) == ROWS
    assert max(rows) < ROWS
    assert scalar(bed.dest, "SELECT count(DISTINCT a) FROM t WHERE b = repeat('x', 100)") == ROWS
    assert len((await bed.ledger()).parts) == len(ranges)


async def test_parts_are_copied_at_the_same_time_and_none_empties_the_table(bed: Bed) -> None:
    with exported_snapshot(bed.source) as snapshot:
        parts = cut(part("t", "a", "b", snapshot=snapshot), *BY_CTID)
        await asyncio.gather(*(bed.copy(one) for one in parts))
    assert count(bed.dest, "t") == scalar(bed.dest, "SELECT count(DISTINCT a) FROM t") == ROWS


async def test_a_range_of_an_inheritance_parent_holds_its_own_rows_alone(bed: Bed) -> None:
    execute(bed.source, "CREATE TABLE child () INHERITS (t)", "INSERT INTO child VALUES (7, 'child')")
    with exported_snapshot(bed.source) as snapshot:
        for one in cut(part("t", "a", "b", snapshot=snapshot), CtidRange(0, None)):
            await bed.copy(one)
    assert count(bed.dest, "t") == ROWS


async def test_a_rewritten_table_has_no_ranges_any_more(bed: Bed) -> None:
    with exported_snapshot(bed.source) as snapshot:
        whole = part("t", "a", "b", snapshot=snapshot)
        first, second = cut(whole, CtidRange(0, 50), CtidRange(50, None))
        await bed.copy(first)
        execute(bed.source, "VACUUM FULL t")
        with pytest.raises(PgmigError) as caught:
            await bed.copy(second)
    assert caught.value.kind is ErrorKind.TABLE_CHANGED
    assert "public.t was truncated, rewritten" in caught.value.message


CHANGES = {
    "truncated": ["TRUNCATE t"],
    "rewritten": ["ALTER TABLE t ALTER a TYPE bigint"],
    "dropped": ["DROP TABLE t"],
    "dropped and made again": ["DROP TABLE t", "CREATE TABLE t (a int, b text)"],
    "swapped with another": [
        "CREATE TABLE u (a int, b text)",
        "ALTER TABLE t RENAME TO v",
        "ALTER TABLE u RENAME TO t",
    ],
    "a column renamed": ["ALTER TABLE t RENAME a TO c"],
    "columns renamed crosswise": [
        "ALTER TABLE t ADD c text",
        "ALTER TABLE t RENAME b TO d",
        "ALTER TABLE t RENAME c TO b",
    ],
    "a column dropped and added": ["ALTER TABLE t DROP b", "ALTER TABLE t ADD b text"],
}


@pytest.mark.parametrize("ranged", [False, True], ids=["whole", "range"])
@pytest.mark.parametrize("statements", CHANGES.values(), ids=CHANGES.keys())
async def test_a_table_that_is_not_what_the_snapshot_shows_is_not_copied(
    bed: Bed, statements: list[str], ranged: bool
) -> None:
    with exported_snapshot(bed.source) as snapshot:
        whole = part("t", "a", "b", snapshot=snapshot)
        execute(bed.source, *statements)
        with pytest.raises(PgmigError) as caught:
            await bed.copy(cut(whole, CtidRange(0, None))[0] if ranged else whole)
    assert caught.value.kind is ErrorKind.TABLE_CHANGED
    assert count(bed.dest, "t") == 0


async def test_partitions_of_a_root_that_is_one_part_are_what_the_snapshot_shows(bed: Bed) -> None:
    execute(
        bed.source,
        "CREATE TABLE p (a int, b text) PARTITION BY RANGE (a)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "INSERT INTO p VALUES (1, 'one')",
    )
    execute(bed.dest, "CREATE TABLE p (a int, b text)")
    with exported_snapshot(bed.source) as snapshot:
        await bed.copy(part("p", "a", "b", snapshot=snapshot))
        assert count(bed.dest, "p") == 1
    with exported_snapshot(bed.source) as snapshot:
        execute(bed.source, "TRUNCATE p1")
        with pytest.raises(PgmigError) as caught:
            await bed.copy(replace(part("p", "a", "b", snapshot=snapshot), part_id="again"))
    assert caught.value.kind is ErrorKind.TABLE_CHANGED


async def test_a_part_of_an_earlier_plan_is_fenced(bed: Bed) -> None:
    await bed.give_plan("old")
    await bed.give_plan("new")
    with exported_snapshot(bed.source) as snapshot:
        (stale,) = cut(part("t", "a", "b", snapshot=snapshot), CtidRange(0, None), epoch="old")
        with pytest.raises(PgmigError) as caught:
            await bed.copy(stale)
    assert caught.value.kind is ErrorKind.FENCED
    assert count(bed.dest, "t") == 0


@pytest.mark.parametrize("rows", [CtidRange(0, None), None], ids=["range", "whole table"])
async def test_a_part_whose_plan_was_replaced_during_the_copy_cannot_commit(
    bed: Bed, rows: PartRange | None
) -> None:
    """As by a copier that is cut off just as the snapshot is lost."""
    make_gate(bed.dest)
    execute(bed.dest, f"ALTER TABLE t ADD CHECK (a <> {ROWS // 2} OR public.gate())")
    await bed.give_plan("old")
    with exported_snapshot(bed.source) as snapshot, closed_gate(bed.dest) as gate:
        stale = replace(part("t", "a", "b", snapshot=snapshot), rows=rows, epoch="old")
        copying = asyncio.create_task(bed.copy(stale))
        await gate.waiting()
        await bed.give_plan("new", empty=False)
        gate.open()
        with pytest.raises(PgmigError) as caught:
            await copying
    assert caught.value.kind is ErrorKind.FENCED
    assert count(bed.dest, "t") == 0
    assert (await bed.ledger()).parts == {}


async def test_emptying_a_table_ends_the_session_that_still_copies_into_it(bed: Bed) -> None:
    make_gate(bed.dest)
    execute(bed.dest, f"ALTER TABLE t ADD CHECK (a <> {ROWS // 2} OR public.gate())")
    await bed.give_plan("old")
    with exported_snapshot(bed.source) as snapshot, closed_gate(bed.dest) as gate:
        (stale,) = cut(part("t", "a", "b", snapshot=snapshot), CtidRange(0, None), epoch="old")
        copying = asyncio.create_task(bed.copy(stale))
        await gate.waiting()
        await bed.give_plan("new")
        with pytest.raises(PgmigError) as caught:
            await copying
    assert caught.value.policy.retry
    assert count(bed.dest, "t") == 0


async def test_a_new_plan_forgets_the_parts_of_the_old_one_with_their_rows(bed: Bed) -> None:
    await bed.give_plan("old")
    with exported_snapshot(bed.source) as snapshot:
        whole = part("t", "a", "b", snapshot=snapshot)
        await bed.copy(cut(whole, *BY_CTID, epoch="old")[0])
        await bed.give_plan("new", forget=("t 1",))
        assert (await bed.ledger()).parts == {}
        for one in cut(whole, *BY_KEY, epoch="new"):
            await bed.copy(one)
    assert count(bed.dest, "t") == scalar(bed.dest, "SELECT count(DISTINCT a) FROM t") == ROWS
    assert {entry.epoch for entry in (await bed.ledger()).parts.values()} == {"new"}


async def test_a_table_that_is_partitioned_on_the_destination_alone(bed: Bed) -> None:
    execute(
        bed.dest,
        "DROP TABLE t",
        "CREATE TABLE t (a int, b text) PARTITION BY RANGE (a)",
        "CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100)",
        "CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (100) TO (MAXVALUE)",
        "INSERT INTO t VALUES (1, 'left'), (200, 'behind')",
    )
    with exported_snapshot(bed.source) as snapshot:
        copied = await bed.copy(part("t", "a", "b", snapshot=snapshot, binary=True))
    assert copied is not None
    assert copied.rows == count(bed.dest, "t") == ROWS
