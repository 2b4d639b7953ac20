"""What has changed of a table: decisions over two identities."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.shared.model import ChangeKind, ColumnIdentity, TableId, TableIdentity, change_of


def column(number: int, name: str, type_oid: int = 25, version: str = "700") -> ColumnIdentity:
    return ColumnIdentity(number, name, type_oid, -1, 0, False, 0, "", "", version)


T = TableIdentity(
    TableId("s", "t"),
    5,
    "r",
    50,
    "p",
    "9 8@700",
    False,
    (column(1, "id", 23), column(2, "v"), column(3, "w")),
)


def with_columns(*columns: ColumnIdentity, file: int = T.file) -> TableIdentity:
    return replace(T, columns=columns, file=file)


ID, V, W = T.columns
SAME = {
    "the same": T,
    "truncated or vacuumed": replace(T, file=51),
    "another statistics target": with_columns(ID, replace(V, version="701"), W),
}
CHANGES = {
    "dropped": (None, ChangeKind.GONE),
    "made again": (replace(T, oid=6, file=60), ChangeKind.REPLACED),
    "detached and attached": (replace(T, published="9 8@702"), ChangeKind.MOVED),
    "unlogged": (replace(T, persistence="u", file=51), ChangeKind.MOVED),
    "rewritten by USING": (with_columns(ID, replace(V, version="701"), W, file=51), ChangeKind.REWRITTEN),
    "another type": (
        with_columns(ID, replace(V, type_oid=23, version="701"), W, file=51),
        ChangeKind.REWRITTEN,
    ),
    "dropped and added": (with_columns(ID, W, column(4, "v")), ChangeKind.REWRITTEN),
    "renamed crosswise": (with_columns(ID, replace(V, name="w"), replace(W, name="v")), ChangeKind.REWRITTEN),
    "renamed": (with_columns(ID, replace(V, name="x"), W), ChangeKind.COLUMNS),
    "a longer varchar": (with_columns(ID, replace(V, typmod=24), W), ChangeKind.COLUMNS),
    "added": (with_columns(ID, V, W, column(4, "x")), ChangeKind.COLUMNS),
    "a column dropped": (with_columns(ID, V), ChangeKind.COLUMNS),
    "another default": (with_columns(ID, replace(V, default=1), W), ChangeKind.COLUMNS),
}


@pytest.mark.parametrize("now", SAME.values(), ids=SAME.keys())
def test_what_leaves_rows_and_columns_the_same_is_no_change(now: TableIdentity) -> None:
    assert change_of(T, now) is None


@pytest.mark.parametrize(("now", "kind"), CHANGES.values(), ids=CHANGES.keys())
def test_each_change_of_a_table_is_described_with_its_remedy(
    now: TableIdentity | None, kind: ChangeKind
) -> None:
    assert change_of(T, now) is kind


def test_the_signature_is_of_what_is_sent() -> None:
    generated = replace(W, generated="s")
    assert with_columns(ID, V, generated).signature == with_columns(ID, V).signature
    assert replace(with_columns(ID, V, generated), sends_generated=True).signature == T.signature
    assert with_columns(ID, replace(V, typmod=9), W).signature != T.signature


@pytest.mark.parametrize("table", [TableId("s", "t"), TableId("a.b", 'c"d'), TableId("A b", "ü")])
def test_a_tables_name_is_read_as_it_is_written(table: TableId) -> None:
    assert TableId.parse(table.argument) == table


@pytest.mark.parametrize("text", ["t", "a.b.c", '"a.b', "", ".t", 's."t'])
def test_anything_else_is_no_tables_name(text: str) -> None:
    with pytest.raises(ValueError, match="not a table's name"):
        TableId.parse(text)
