"""What the coordinator decides about the copy: how tables are cut, which plans begin anew, progress."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.coordinator.migration.copy_parts import (
    MOST_PARTS,
    choose_split,
    part_id,
    part_ids,
    plan_parts,
    renew_plans,
    table_key,
    wants_key,
)
from services.coordinator.migration.copy_progress import CopyProgress
from services.coordinator.migration.rates import Totals
from services.coordinator.migration.record import TableRecord
from services.shared.model import (
    Column,
    CopiedPart,
    CopyPlan,
    CtidRange,
    KeyRange,
    Lsn,
    PartDone,
    PartProgress,
    ReplicaIdentity,
    SnapshotReady,
    SourceTable,
    Split,
    TableId,
    TableState,
)
from services.shared.pg.bookkeeping.copy_ledger import CopyLedger

TEXT, REGCLASS, USER_TYPE = 25, 2205, 16_500
SNAPSHOT = SnapshotReady("d", "snap", Lsn(7), "5:9:")
LATER = SnapshotReady("d", "snap2", Lsn(20), "8:9:")
VERSIONS = (170004, 180000)
WHOLE, THIRDS = Split(), Split(3, pages=30)
T = TableId("s", "t")


def table(name: str, size: int = 0, *types: int, pages: int = 0) -> SourceTable:
    columns = tuple(Column(f"c{n}", oid) for n, oid in enumerate(types or (TEXT,)))
    return SourceTable(
        TableId("s", name), 1, columns, ReplicaIdentity.DEFAULT, True, 10, size, True, pages, "k"
    )


def plan(name: str, split: Split = WHOLE, *, epoch: str = "e") -> CopyPlan:
    return CopyPlan(TableId("s", name), epoch, SNAPSHOT.identity, split)


def ledger(*plans: CopyPlan, lsn: int = 10, **epochs: str) -> CopyLedger:
    """epochs: of the entries, by table and number (`t_1`); "" for the plan's."""
    parts = {}
    for one in plans:
        for number, name in enumerate(part_ids(one), 1):
            epoch = epochs.get(f"{one.table.name}_{number}")
            if epoch is not None:
                parts[name] = CopiedPart(Lsn(lsn), number, 10 * number, epoch or one.epoch)
    return CopyLedger({one.table: one for one in plans}, parts)


def test_parts_come_largest_first_without_what_is_copied() -> None:
    tables = [table("small", 1), table("done", 9), table("large", 5), table("cut", 9)]
    plans = {one.table: plan(one.table.name) for one in tables} | {TableId("s", "cut"): plan("cut", THIRDS)}
    copied = {part_id(TableId("s", "done")), part_id(TableId("s", "cut"), 2, 3)}
    parts = plan_parts(tables, plans, copied, SNAPSHOT, VERSIONS)
    assert [part.part_id for part in parts] == [
        '"s"."large"',
        '"s"."cut" 1/3',
        '"s"."cut" 3/3',
        '"s"."small"',
    ]
    assert {(part.snapshot_name, part.snapshot_lsn, part.snapshot_xids, part.epoch) for part in parts} == {
        ("snap", Lsn(7), "5:9:", "e")
    }


@pytest.mark.parametrize(
    ("types", "binary"), [((TEXT, 23), True), ((TEXT, REGCLASS), False), ((USER_TYPE,), False)]
)
def test_binary_copy_only_for_types_that_mean_the_same_everywhere(
    types: tuple[int, ...], binary: bool
) -> None:
    assert plan_parts([table("t", 0, *types)], {T: plan("t")}, (), SNAPSHOT, VERSIONS)[0].binary is binary


def test_generated_columns_are_neither_copied_nor_looked_at() -> None:
    columns = (Column("a", TEXT), Column("g", USER_TYPE, generated=True))
    source = SourceTable(T, 1, columns, ReplicaIdentity.DEFAULT, True, 0, 0)
    part = plan_parts([source], {T: plan("t")}, (), SNAPSHOT, VERSIONS)[0]
    assert (part.columns, part.binary) == (("a",), True)


names = st.text(alphabet='a." 1/', min_size=1, max_size=6)
numbered = st.tuples(st.builds(TableId, names, names), st.sampled_from([(1, 1), (1, 2), (2, 2), (11, 12)]))


@given(numbered, numbered)
def test_part_ids_are_unique_across_tables_and_parts(
    first: tuple[TableId, tuple[int, int]], second: tuple[TableId, tuple[int, int]]
) -> None:
    one, other = (part_id(of, *numbers) for of, numbers in (first, second))
    assert (one == other) == (first == second)
    assert table_key(one) == part_id(first[0])


def test_a_table_is_cut_by_its_pages_and_never_finer() -> None:
    assert choose_split(table("t", 100, pages=50), 100, 170000, None) == WHOLE
    assert choose_split(table("t", 101, pages=50), 100, 170000, None) == Split(2, pages=50)
    assert choose_split(table("t", 9_999_999, pages=4), 1, 170000, None) == Split(4, pages=4)
    assert choose_split(table("t", 1 << 60, pages=1 << 31), 1, 170000, None).parts == MOST_PARTS
    assert choose_split(table("t", 1000, pages=0), 1, 170000, None) == WHOLE


def test_before_14_a_table_is_cut_by_an_integer_key_or_not_at_all() -> None:
    assert wants_key(table("t", 101), 100, 130000)
    assert not wants_key(table("t", 101), 100, 140000)
    assert not wants_key(table("t", 100), 100, 130000)
    by_key = Split(2, column="k", low=-5, high=5)
    assert choose_split(table("t", 200, pages=50), 100, 130000, (-5, 5)) == by_key
    assert choose_split(table("t", 200, pages=50), 100, 130000, None) == WHOLE
    assert choose_split(table("t", 200, pages=50), 1, 130000, (3, 4)).parts == 2


@given(st.integers(2, 50), st.integers(1, 500), st.integers(-100, 100), st.integers(0, 200))
def test_ranges_hold_every_row_once(parts: int, pages: int, low: int, width: int) -> None:
    for block in (0, pages - 1, pages, pages + 1000):
        by_page = Split(parts, pages=pages).ranges()
        assert (
            sum(
                isinstance(r, CtidRange) and r.first <= block and (r.end is None or block < r.end)
                for r in by_page
            )
            == 1
        )
    for key in (low - 7, low, low + width // 2, low + width, low + width + 7):
        by_key = Split(parts, column="k", low=low, high=low + width).ranges()
        assert (
            sum(
                isinstance(r, KeyRange) and (r.low is None or r.low <= key) and (r.end is None or key < r.end)
                for r in by_key
            )
            == 1
        )


def renewed(
    books: CopyLedger, snapshot: SnapshotReady, *tables: SourceTable, follow: bool = True
) -> set[str]:
    """Names of the tables that get a new plan; what it makes void is checked on the way."""
    splits = {one.table: Split(2, pages=20) for one in tables}
    new, void = renew_plans(tables, splits, books, snapshot, follow=follow)
    renewed = {part_id(one.table) for one in new}
    assert set(void) == {part for part in books.parts if table_key(part) in renewed}
    assert all(one.snapshot == snapshot.identity and one.epoch != "e" for one in new)
    return {one.table.name for one in new}


def test_a_table_without_a_plan_gets_one() -> None:
    assert renewed(CopyLedger(), SNAPSHOT, table("t")) == {"t"}


def test_under_the_same_snapshot_an_incomplete_table_keeps_its_plan() -> None:
    books = ledger(plan("t", THIRDS), t_1="")
    assert renewed(books, SNAPSHOT, table("t")) == set()


def test_under_a_new_snapshot_incomplete_tables_are_copied_again_and_complete_ones_stay() -> None:
    books = ledger(
        plan("half", THIRDS), plan("all", THIRDS), half_1="", half_3="", all_1="", all_2="", all_3=""
    )
    tables = table("half"), table("all")
    assert renewed(books, LATER, *tables) == {"half"}
    assert renewed(books, LATER, *tables, follow=False) == {"half", "all"}
    assert renewed(books, SNAPSHOT, *tables, follow=False) == set()


def test_parts_of_another_plan_make_no_table_complete() -> None:
    books = ledger(plan("t", THIRDS), t_1="", t_2="old", t_3="")
    assert renewed(books, LATER, table("t")) == {"t"}
    progress = CopyProgress([TableRecord(T)])
    progress.settle(books, Lsn(0))
    assert progress.missing() == (T,)
    assert progress.missing_parts() == 1


def test_ledger_settles_what_is_copied_and_which_tables_have_a_floor() -> None:
    progress = CopyProgress(
        [TableRecord(TableId("s", name)) for name in ("early", "late", "half", "missing")]
    )
    progress.report(PartDone("x", '"s"."missing"', 5, 50))
    early, late = (
        ledger(plan("early"), early_1=""),
        ledger(plan("late", THIRDS), late_1="", late_2="", late_3="", lsn=20),
    )
    half = ledger(plan("half", THIRDS), half_2="", lsn=20)
    books = CopyLedger(
        {**early.plans, **late.plans, **half.plans}, {**early.parts, **late.parts, **half.parts}
    )
    progress.settle(books, Lsn(10))
    assert progress.missing() == (TableId("s", "half"), TableId("s", "missing"))
    assert progress.missing_parts() == 3
    assert progress.floors() == ((TableId("s", "late"), Lsn(20)),)
    assert progress.totals() == Totals(1 + 6 + 2, 10 + 60 + 20)


def test_progress_of_a_part_shows_until_it_is_done() -> None:
    progress = CopyProgress([TableRecord(T)])
    progress.report(PartProgress("x", '"s"."t"', 6, 70))
    now = progress.tables()[0]
    assert (now.state, now.rows_copied, now.bytes_copied) == (TableState.COPYING, 6, 70)
    progress.report(PartDone("x", '"s"."t"', 9, 100))
    progress.report(PartProgress("x", '"s"."t"', 7, 80))  # a late one
    done = progress.tables()[0]
    assert (done.state, done.rows_copied, done.bytes_copied) == (TableState.COPIED, 9, 100)
    assert progress.complete


def test_a_cut_table_is_copied_when_all_its_parts_are() -> None:
    progress = CopyProgress([TableRecord(T)])
    progress.cut([replace(plan("t"), split=Split(2, pages=9))])
    progress.report(PartDone("x", '"s"."t" 2/2', 1, 10))
    progress.report(PartDone("x", '"s"."t" 2/2', 1, 10))  # its acknowledgement was lost
    progress.report(PartProgress("x", '"s"."t" 1/2', 4, 40))
    now = progress.tables()[0]
    assert (now.state, now.rows_copied, now.bytes_copied) == (TableState.COPYING, 5, 50)
    assert not progress.complete
    progress.report(PartDone("x", '"s"."t" 1/2', 5, 50))
    assert progress.complete
    assert progress.totals() == Totals(6, 60)
