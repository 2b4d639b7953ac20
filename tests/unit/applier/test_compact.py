"""Sets of rows against single steps: the same rows afterwards, for every history that can happen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.applier.compact import Step, Truncation, compact, row_by_row
from services.shared.model import PgmigError, ReplicaIdentity, TableId
from services.shared.pg.apply.target_statements import TargetColumn
from services.shared.pg.apply.target_table import Operation, TargetTable, array
from services.shared.pgoutput import (
    UNCHANGED,
    Delete,
    Insert,
    Relation,
    RelationColumn,
    Unchanged,
    Update,
    Value,
    Values,
)

KEYED = TableId("public", "keyed")
Table = dict[bytes, tuple[bytes | None, ...]]
Effect = Callable[[Table], int]


class ModelTarget:
    """Stands for a TargetTable with the key in column 0; its operations act on a dict."""

    row_by_row = False
    where = (0,)
    inserted = (0, 1, 2)
    table = KEYED

    def touched(self, new: Values) -> tuple[int, ...]:
        return tuple(i for i, value in enumerate(new) if value is not UNCHANGED and i != 0)

    def insert(self, new: Values) -> Effect:
        return self.insert_many([new])

    def insert_many(self, rows: Sequence[Values]) -> Effect:
        def run(table: Table) -> int:
            for row in rows:
                assert row[0] not in table, "a duplicate key"
                assert UNCHANGED not in row
                table[cast("bytes", row[0])] = cast("tuple[bytes | None, ...]", row)
            return len(rows)

        return run

    def update(self, old: Values | None, new: Values) -> Effect:
        def run(table: Table) -> int:
            before = table.pop(cast("bytes", (old or new)[0]))
            assert new[0] not in table, "a duplicate key"
            after = tuple(b if n is UNCHANGED else n for b, n in zip(before, new, strict=True))
            table[cast("bytes", new[0])] = cast("tuple[bytes | None, ...]", after)
            return 1

        return run

    def update_many(self, rows: Sequence[Values], touched: tuple[int, ...]) -> Effect:
        def run(table: Table) -> int:
            for new in rows:
                row = list(table[cast("bytes", new[0])])
                for i in touched:
                    row[i] = cast("bytes | None", new[i])
                table[cast("bytes", new[0])] = tuple(row)
            return len(rows)

        return run

    def delete(self, old: Values) -> Effect:
        return self.delete_many([old[0]])

    def delete_many(self, keys: Sequence[Value]) -> Effect:
        def run(table: Table) -> int:
            for key in keys:
                del table[cast("bytes", key)]
            return len(keys)

        return run


TARGET = cast("TargetTable", ModelTarget())
KEYS = [b"a", b"b", b"c", b"d"]
START: Table = {b"a": (b"a", b"0", b"big a"), b"b": (b"b", b"0", b"big b")}


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """What a source that starts with START can do, as pgoutput would tell it."""
    table = dict(START)
    steps: list[Step] = []
    for number in range(draw(st.integers(0, 14))):
        value = b"%d" % number
        key = draw(st.sampled_from(KEYS))
        if key not in table:
            row: tuple[bytes | None, ...] = (key, value, b"new " + value)
            table[key] = row
            steps.append((TARGET, Insert(1, row)))
            continue
        move = draw(st.sampled_from(["delete", "update", "rewrite", "move"]))
        toast: bytes | Unchanged = UNCHANGED if draw(st.booleans()) else b"big " + value
        if move == "delete":
            steps.append((TARGET, Delete(1, "K", (key, None, None))))
            del table[key]
        else:
            other = draw(st.sampled_from(KEYS)) if move == "move" else key
            if other in table and other != key:
                continue
            new: Values = (other, value, toast)
            before = table.pop(key)
            table[other] = (other, value, before[2] if toast is UNCHANGED else toast)
            old = (key, None, None) if other != key else None
            steps.append((TARGET, Update(1, "K" if old else None, old, new)))
    return steps


def outcome(operations: Iterable[object]) -> Table:
    table = dict(START)
    for operation in operations:
        cast("Effect", operation)(table)
    return table


@given(history=histories())
def test_the_net_effect_is_the_effect_of_the_steps(history: list[Step]) -> None:
    assert outcome(compact(history)) == outcome(row_by_row(history))


@given(first=histories())
def test_many_keys_take_few_statements(first: list[Step]) -> None:
    inserts: list[Step] = [(TARGET, Insert(1, (b"k%d" % n, b"v", b"t"))) for n in range(100)]
    updates: list[Step] = [(TARGET, Update(1, None, None, (b"k%d" % n, b"w", UNCHANGED))) for n in range(100)]
    assert len(compact([*inserts, *updates])) == 1, "inserts take the updates in"
    assert len(compact([*first, *inserts, *updates])) <= len(compact(first)) + 3


def make(where: tuple[int, ...], identity: ReplicaIdentity, *, row_by_row: bool = False) -> TargetTable:
    relation = Relation(
        1,
        "public",
        "t",
        identity,
        (RelationColumn("id", 23, -1, 0 in where), RelationColumn("v", 1007, -1, False)),
    )
    columns = (
        TargetColumn("id", "integer", "integer", "integer", False, 0 in where),
        TargetColumn("v", "integer[]", "integer[]", None, False, False, cast_from_text=True),
    )
    return TargetTable(relation, columns, where, row_by_row)


def text(operation: Operation) -> str:
    return operation.statement.text.decode()


def test_rows_without_a_key_change_one_at_a_time_and_in_order() -> None:
    target = make((), ReplicaIdentity.FULL)
    row: Values = (b"1", b"{1}")
    steps: list[Step] = [(target, Insert(1, row))] * 4
    steps += [(target, Delete(1, "K", row)), (target, Insert(1, row))]
    found = [text(operation).split()[0] for operation in compact(steps)]
    assert found == ["INSERT", "DELETE", "INSERT"]


def test_a_table_whose_triggers_fire_sees_every_step() -> None:
    target = make((0,), ReplicaIdentity.DEFAULT, row_by_row=True)
    steps: list[Step] = [(target, Insert(1, (b"%d" % n, None))) for n in range(9)]
    steps += [(target, Update(1, None, None, (b"%d" % n, b"{2}"))) for n in range(9)]
    assert len(compact(steps)) == 18


def test_truncate_is_a_barrier() -> None:
    steps: list[Step] = [
        *((TARGET, Insert(1, (b"k%d" % n, b"v", b"t"))) for n in range(5)),
        Truncation((KEYED,), True),
        *((TARGET, Insert(1, (b"k%d" % n, b"v", b"t"))) for n in range(5)),
    ]
    _, barrier, _ = compact(steps)
    assert text(barrier) == 'TRUNCATE ONLY "public"."keyed" RESTART IDENTITY'


def test_columns_that_are_arrays_travel_as_text_and_are_cast() -> None:
    target = make((0,), ReplicaIdentity.DEFAULT)
    operation = target.insert_many([(b"1", b"{1,2}"), (b"2", None)])
    assert "unnest($1::integer[], $2::text[])" in text(operation)
    assert "CAST(s.v1 AS integer[])" in text(operation)
    assert operation.values == (b'{"1","2"}', b'{"{1,2}",NULL}')
    assert operation.rows == 2


def test_an_update_without_replica_identity_is_refused() -> None:
    target = make((), ReplicaIdentity.NOTHING)
    with pytest.raises(PgmigError):
        target.update(None, (b"1", b"{1}"))


@given(
    values=st.lists(st.one_of(st.none(), st.binary(max_size=12).filter(lambda b: b"\0" not in b)), min_size=1)
)
def test_array_text_gives_the_values_back(values: list[bytes | None]) -> None:
    assert parse_array(array(values)) == values


def parse_array(text: bytes) -> list[bytes | None]:
    """Elements of a one-dimensional array's text, by the rules of PostgreSQL's array_in."""
    found: list[bytes | None] = []
    at = 1
    while at < len(text) - 1:
        if text[at : at + 4] == b"NULL":
            found.append(None)
            at += 5
            continue
        assert text[at] == ord('"')
        at += 1
        element: Any = bytearray()
        while text[at] != ord('"'):
            at += text[at] == ord("\\")
            element.append(text[at])
            at += 1
        found.append(bytes(element))
        at += 2
    return found
