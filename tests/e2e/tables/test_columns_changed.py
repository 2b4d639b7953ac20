"""Columns that change while changes are followed.

A type that holds less on the destination, a default that old rows have, a rewrite by an expression,
and a name that now belongs to another column: all of it stops the migration with advice, and to
follow the advice makes the databases equal.
"""

from __future__ import annotations

import pytest

from tests.support.migrations.changing import Bed

pytestmark = pytest.mark.timeout(240)

TABLE = (
    "CREATE TABLE app.t (id int PRIMARY KEY, n numeric(10,2), r real, v text, w text, c varchar(5),"
    " g int GENERATED ALWAYS AS (id * 2) STORED)",
    "INSERT INTO app.t SELECT i, i / 3.0, i / 3.0, 'v' || i, 'w' || i, 'c' || i FROM generate_series(1, 9) i",
)
FILL = "INSERT INTO app.u (id, n, r, v, w, c) SELECT id, n, r, v, w, c FROM app.t"
WRITES = (
    "INSERT INTO app.t (id, n, v) VALUES (10, 1.2345, 'Mixed')",
    "UPDATE app.t SET n = 9.8765 WHERE id = 2",
    "DELETE FROM app.t WHERE id = 3",
)

CHANGES = {
    "numeric with more digits": "ALTER TABLE app.t ALTER n TYPE numeric(12,4)",
    "numeric without limits": "ALTER TABLE app.t ALTER n TYPE numeric",
    "real to double precision": "ALTER TABLE app.t ALTER r TYPE float8",
    "longer varchar": "ALTER TABLE app.t ALTER c TYPE varchar(20)",
    "varchar to text": "ALTER TABLE app.t ALTER c TYPE text",
    "a column with a default": "ALTER TABLE app.t ADD status text DEFAULT 'paid'",
    "a required column with a default": "ALTER TABLE app.t ADD status text NOT NULL DEFAULT 'it''s \"paid\"'",
    "a column whose default is gone": "ALTER TABLE app.t ADD status text DEFAULT 'paid', ADD other int;"
    "ALTER TABLE app.t ALTER status DROP DEFAULT",
    "a column whose default is another by now": "ALTER TABLE app.t ADD status text DEFAULT 'paid';"
    "ALTER TABLE app.t ALTER status SET DEFAULT 'open'",
    "a column with a volatile default": "ALTER TABLE app.t ADD token uuid DEFAULT gen_random_uuid()",
    "a column of the time of now": "ALTER TABLE app.t ADD at timestamptz DEFAULT now()",
    "an identity column": "ALTER TABLE app.t ADD number int GENERATED ALWAYS AS IDENTITY",
    "a generated column": "ALTER TABLE app.t ADD twice numeric GENERATED ALWAYS AS (n * 2) STORED",
    "a column that is dropped": "ALTER TABLE app.t DROP w",
    "other values of the same type": "ALTER TABLE app.t ALTER v TYPE text USING upper(v)",
    "a column of the name of one that is gone": "ALTER TABLE app.t DROP v, ADD v text",
    "a column of a name that is gone, with a default": "ALTER TABLE app.t DROP v, ADD v text DEFAULT 'x'",
    "names that cross": "ALTER TABLE app.t RENAME v TO x; ALTER TABLE app.t RENAME w TO v;"
    "ALTER TABLE app.t RENAME x TO w",
    "another name": "ALTER TABLE app.t RENAME r TO x",
    "a default alone": "ALTER TABLE app.t ALTER v SET DEFAULT 'new'",
    "a required column": "ALTER TABLE app.t ALTER v SET NOT NULL",
    "another expression": "ALTER TABLE app.t ALTER g SET EXPRESSION AS (id * 3)",
    "an expression that is gone": "ALTER TABLE app.t ALTER g DROP EXPRESSION",
    "another collation": 'ALTER TABLE app.t ALTER v TYPE text COLLATE "POSIX"',
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_columns_stops_with_advice_that_makes_both_sides_equal(
    bed: Bed, change: str
) -> None:
    """Of two tables, one of which is written to afterwards."""
    changes = [CHANGES[change].replace("app.t", table) for table in ("app.t", "app.u")]
    async with bed.streaming(*TABLE, "CREATE TABLE app.u (LIKE app.t INCLUDING ALL)", FILL) as operator:
        operator.by_hand = tuple(statement for text in changes for statement in text.split(";"))
        bed.app("UPDATE app.t SET v = 'before' WHERE id = 1", *changes)
        bed.app(*WRITES)
        await operator.to_the_end()
        assert operator.named("app.t")


async def test_columns_that_swap_names_and_back_before_and_after_a_write_are_equal(bed: Bed) -> None:
    cross = CHANGES["names that cross"]
    async with bed.streaming(*TABLE) as operator:
        bed.app(cross, "INSERT INTO app.t (id, v, w) VALUES (10, 'is v', 'is w')", cross)
        await operator.to_the_end()


async def test_a_type_that_comes_and_goes_is_equal(bed: Bed) -> None:
    async with bed.streaming(*TABLE) as operator:
        bed.app(
            "ALTER TABLE app.t ALTER v TYPE text USING upper(v)",
            "UPDATE app.t SET w = 'w' WHERE id = 1",
            "ALTER TABLE app.t ALTER v TYPE text USING v",
        )
        await operator.to_the_end()


@pytest.mark.parametrize(
    "column", ["ALTER v SET DEFAULT 'new'", "ADD z text DEFAULT 'z'", "ALTER v TYPE varchar(9)"]
)
async def test_a_change_of_a_partitioned_table_stops_the_migration(bed: Bed, column: str) -> None:
    """A default may be the root's alone; other changes are its partitions' too."""
    which = "ONLY app.root" if "DEFAULT 'new'" in column else "app.root"
    async with bed.streaming(
        "CREATE TABLE app.root (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE app.low PARTITION OF app.root FOR VALUES FROM (0) TO (1000)",
        "INSERT INTO app.root SELECT n, n FROM generate_series(1, 10) n",
    ) as operator:
        operator.by_hand = (f"ALTER TABLE {which} {column}",)
        bed.app(*operator.by_hand)
        await operator.to_the_end()
        assert operator.named("app.root") or operator.named("app.low")
