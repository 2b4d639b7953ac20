"""The comparison of two databases finds every difference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

import pytest

from tests.support.data import compare
from tests.support.data.compare import compare_databases
from tests.support.data.schema import seed
from tests.support.servers.postgres import PostgresServer
from tests.support.sql import change

pytestmark = pytest.mark.xdist_group("compare")


# Comparison


@pytest.fixture(scope="module")
def seeded(source_server: PostgresServer, dest_server: PostgresServer) -> Iterator[tuple[str, str]]:
    """A seeded source, never changed here, and the name of an equal database on the destination."""
    name = "lab_template"
    with source_server.fresh_database("seeded") as source:
        seed(source, 1000)
        seed(dest_server.create_database(name), 1000)
        yield source, name
        dest_server.drop_database(name)


@pytest.fixture
def equal_pair(seeded: tuple[str, str], dest_server: PostgresServer) -> Iterator[tuple[str, str]]:
    """Two URIs with equal content; the second one's may be changed."""
    source, template = seeded
    with dest_server.fresh_database("copy", template) as dest:
        yield source, dest


def test_equal_databases_have_no_differences(equal_pair: tuple[str, str]) -> None:
    change(equal_pair[1], "CREATE SCHEMA pgmig; CREATE TABLE pgmig.ledger AS SELECT 1")
    assert compare_databases(*equal_pair) == []


ONE_DUPLICATE: LiteralString = (
    "(SELECT min(ctid) FROM shop.audit_log GROUP BY audit_log::text HAVING count(*) > 1 ORDER BY 1 LIMIT 1)"
)
SINGLE: LiteralString = (
    "(SELECT min(ctid) FROM shop.audit_log GROUP BY audit_log::text HAVING count(*) = 1 ORDER BY 1 LIMIT 1)"
)
ROW_CHANGES: dict[str, tuple[LiteralString, str]] = {
    "value": ("UPDATE shop.accounts SET balance = balance + 0.01 WHERE id = 7", "shop.accounts"),
    "partition leaf": ("DELETE FROM shop.events_2025_click WHERE id = 6", "shop.events_2025_click"),
    "empty for NULL": ("UPDATE shop.edge_values SET txt = '' WHERE id = 1", "shop.edge_values"),
    "negative zero": ("UPDATE shop.edge_values SET dbl = 0 WHERE dbl = 0", "shop.edge_values"),
    "numeric scale": (
        "UPDATE shop.edge_values SET num = num::numeric(30, 25) WHERE id = 3",
        "shop.edge_values",
    ),
    "missing duplicate": ("DELETE FROM shop.audit_log WHERE ctid = " + ONE_DUPLICATE, "shop.audit_log"),
    "additional duplicate": (
        "INSERT INTO shop.audit_log SELECT * FROM shop.audit_log WHERE ctid = " + ONE_DUPLICATE,
        "shop.audit_log",
    ),
    "another duplicate": (  # the same set of rows, and as many
        "INSERT INTO shop.audit_log SELECT * FROM shop.audit_log WHERE ctid = " + SINGLE + ";"
        "DELETE FROM shop.audit_log WHERE ctid = " + ONE_DUPLICATE,
        "shop.audit_log",
    ),
    "quoted name": ('UPDATE public."Mixed Case" SET "Größe" = 0 WHERE "Id" = 500', "public.Mixed Case"),
    "row in an empty table": ("INSERT INTO shop.never_filled VALUES (1)", "shop.never_filled"),
    "all rows": ("TRUNCATE shop.documents", "shop.documents"),
}


@pytest.mark.parametrize("small_rows", [20_000, -1], ids=["by row", "by hash"])
@pytest.mark.parametrize("name", ROW_CHANGES)
def test_one_changed_row_is_found(
    equal_pair: tuple[str, str], name: str, small_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement, table = ROW_CHANGES[name]
    monkeypatch.setattr(compare, "_SMALL_ROWS", small_rows)
    change(equal_pair[1], statement)
    differences = compare_databases(*equal_pair)
    assert [d.split(" differs")[0] for d in differences] == [f"table {table}"]


def test_a_difference_names_the_rows(equal_pair: tuple[str, str]) -> None:
    change(equal_pair[1], "UPDATE shop.scratch SET value = 'other' WHERE id = 9")
    (difference,) = compare_databases(*equal_pair)
    assert "only at the source: (9,s9)" in difference
    assert "only at the destination: (9,other)" in difference


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("SELECT nextval('shop.voucher_seq')", "sequence value of shop.voucher_seq"),
        ("SELECT setval('shop.order_number_seq', 1000, true)", "sequence value of shop.order_number_seq"),
        ("SELECT setval('shop.accounts_id_seq', 151)", "sequence value of shop.accounts_id_seq"),
        ("DROP INDEX shop.accounts_owner_idx", "index shop.accounts_owner_idx"),
        ("ALTER TABLE shop.ledger DROP CONSTRAINT ledger_source_id_fkey", "constraint shop.ledger"),
        ("ALTER TABLE shop.orders DISABLE TRIGGER orders_log", "trigger shop.orders orders_log"),
        ("ALTER TABLE shop.audit_log REPLICA IDENTITY DEFAULT", "relation shop.audit_log"),
        ("ALTER TABLE shop.scratch ALTER id DROP IDENTITY", "column shop.scratch.id"),
        ("COMMENT ON SCHEMA shop IS 'another'", "comment schema shop"),
        ("ALTER TYPE shop.order_status RENAME VALUE 'new' TO 'newer'", "enum shop.order_status"),
        ("DROP VIEW shop.account_activity", "relation shop.account_activity"),
        ("REFRESH MATERIALIZED VIEW shop.totals_by_status WITH NO DATA", "relation shop.totals_by_status"),
        ("DROP TABLE shop.never_filled", "table shop.never_filled exists only at the source"),
    ],
)
def test_a_sequence_or_definition_that_is_off_is_found(
    equal_pair: tuple[str, str], statement: LiteralString, found: str
) -> None:
    change(equal_pair[1], statement)
    differences = compare_databases(*equal_pair)
    assert any(difference.startswith(found) for difference in differences), differences
