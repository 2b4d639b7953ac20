"""A name that belongs to another table than before, while changes are followed.

Dropped and made again, swapped, dropped, detached and filled, attached with rows, taken out of the
publication for a while: none of it is in the change stream. Each test ends with equal databases;
what was not equal by itself had stopped the migration before, which then named the table.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.migrations.changing import Bed

pytestmark = pytest.mark.timeout(240)

ONE = ("CREATE TABLE app.one (id int PRIMARY KEY, v int)", "INSERT INTO app.one VALUES (1, 1)")
TWO = ("CREATE TABLE app.two (id int PRIMARY KEY, v int)", "INSERT INTO app.two VALUES (2, 2), (3, 3)")
MANY = "INSERT INTO app.one SELECT n, -n FROM generate_series(1, 500) n"
SWAP = (
    "ALTER TABLE app.one RENAME TO swapped",
    "ALTER TABLE app.two RENAME TO one",
    "ALTER TABLE app.swapped RENAME TO two",
)
PARTITIONED = (
    "CREATE TABLE app.root (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
    "CREATE TABLE app.low PARTITION OF app.root FOR VALUES FROM (0) TO (1000)",
    "CREATE TABLE app.high PARTITION OF app.root FOR VALUES FROM (1000) TO (2000)",
    "INSERT INTO app.root SELECT n, n FROM generate_series(1, 10) n",
)
DETACH = "ALTER TABLE app.root DETACH PARTITION app.low"
ATTACH = "ALTER TABLE app.root ATTACH PARTITION app.low FOR VALUES FROM (0) TO (1000)"
REFILL = "INSERT INTO app.low SELECT n, n FROM generate_series(11, 500) n"
TOP = "PARTITION app.top FOR VALUES FROM (2000) TO (3000)"
LOADED = (
    "CREATE TABLE app.top (id int PRIMARY KEY, v int)",
    "INSERT INTO app.top SELECT n, n FROM generate_series(2001, 2100) n",
)

Apply = Callable[..., None]


@pytest.fixture(params=[True, False], ids=["one transaction", "statement by statement"])
def change(request: pytest.FixtureRequest, bed: Bed) -> Apply:
    """What is run in one transaction is never seen half done."""
    return bed.at_once if request.param else bed.app


@pytest.fixture(params=[True, False], ids=["written to", "left alone"])
def written(request: pytest.FixtureRequest) -> bool:
    """Whether the application goes on writing to the tables."""
    return bool(request.param)


async def test_a_recreated_table_is_named(bed: Bed, change: Apply, written: bool) -> None:
    async with bed.streaming(*ONE) as operator:
        change("DROP TABLE app.one", ONE[0], MANY)
        if written:
            bed.app("UPDATE app.one SET v = 7 WHERE id = 1", "INSERT INTO app.one VALUES (501, 1)")
        await operator.to_the_end()
        assert operator.named("app.one")


async def test_a_table_recreated_on_the_destination_is_named(bed: Bed) -> None:
    """Nothing in the change stream shows that the rows that were copied are gone."""
    async with bed.streaming(*ONE, *TWO) as operator:
        operator.prepare("DROP TABLE app.one", ONE[0])
        await operator.to_the_end()
        assert operator.named("app.one")
        assert not operator.named("app.two")


@pytest.mark.parametrize("name", ["app.root", "app.low"])
async def test_a_partition_recreated_on_the_destination_is_named(bed: Bed, name: str) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        partitions = [PARTITIONED[1], PARTITIONED[2]] if name == "app.root" else [PARTITIONED[1]]
        operator.prepare(f"DROP TABLE {name}", *(PARTITIONED[:1] if name == "app.root" else ()), *partitions)
        await operator.to_the_end()
        assert operator.named("app.low")


async def test_a_table_recreated_with_other_columns_is_named(bed: Bed) -> None:
    async with bed.streaming(*ONE) as operator:
        operator.by_hand = ("ALTER TABLE app.one ADD w text",)
        bed.at_once("DROP TABLE app.one", "CREATE TABLE app.one (id int PRIMARY KEY, v int, w text)")
        bed.app("INSERT INTO app.one VALUES (1, 2, 'three')")
        await operator.to_the_end()
        assert operator.named("app.one")


async def test_tables_that_swap_names_are_named(bed: Bed, change: Apply, written: bool) -> None:
    async with bed.streaming(*ONE, *TWO) as operator:
        change(*SWAP)
        if written:
            bed.app(
                "INSERT INTO app.one VALUES (10, 10)",
                "UPDATE app.two SET v = 9",
                "DELETE FROM app.one WHERE id = 2",
            )
        await operator.to_the_end()
        assert operator.named("app.one") or operator.named("app.two")


async def test_tables_that_swap_names_and_back_before_and_after_a_write_are_equal(bed: Bed) -> None:
    async with bed.streaming(*ONE, *TWO) as operator:
        bed.app(*SWAP, "INSERT INTO app.one VALUES (10, 10)", "INSERT INTO app.two VALUES (11, 11)", *SWAP)
        await operator.to_the_end()


async def test_a_table_that_is_dropped_is_named(bed: Bed) -> None:
    async with bed.streaming(*ONE, *TWO) as operator:
        operator.by_hand = ("DROP TABLE app.one",)
        bed.app("DROP TABLE app.one", "INSERT INTO app.two VALUES (4, 4)")
        await operator.to_the_end()
        assert operator.named("app.one")


async def test_a_table_that_is_renamed_is_named(bed: Bed) -> None:
    async with bed.streaming(*ONE) as operator:
        operator.by_hand = ("ALTER TABLE app.one RENAME TO other",)
        bed.app("ALTER TABLE app.one RENAME TO other", "INSERT INTO app.other VALUES (2, 2)")
        await operator.to_the_end()
        assert operator.named("app.one") or operator.named("app.other")


async def test_a_table_that_moves_to_another_schema_is_named(bed: Bed) -> None:
    async with bed.streaming(*ONE) as operator:
        operator.prepare("CREATE SCHEMA attic")
        bed.app(
            "CREATE SCHEMA attic",
            "ALTER TABLE app.one SET SCHEMA attic",
            "INSERT INTO attic.one VALUES (2, 2)",
        )
        await operator.to_the_end()
        assert operator.named(".one")


async def test_a_partition_that_was_detached_and_filled_is_named(bed: Bed, change: Apply) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        change(DETACH, REFILL, ATTACH)
        bed.app("INSERT INTO app.root VALUES (501, 501)")
        await operator.to_the_end()


async def test_a_partition_that_is_detached_is_named(bed: Bed) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        operator.by_hand = (DETACH,)
        bed.app(DETACH, REFILL)
        await operator.to_the_end()
        assert operator.named("app.low")


async def test_a_table_with_rows_that_becomes_a_partition_is_replicated(bed: Bed, change: Apply) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        operator.by_hand = (LOADED[0], f"ALTER TABLE app.root ATTACH {TOP}")
        change(*LOADED, f"ALTER TABLE app.root ATTACH {TOP}")
        bed.app("INSERT INTO app.root SELECT n, n FROM generate_series(2101, 2106) n")
        await operator.to_the_end()


async def test_a_table_with_rows_that_becomes_a_partition_is_replicated_without_a_write(bed: Bed) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        operator.by_hand = (LOADED[0], f"ALTER TABLE app.root ATTACH {TOP}")
        bed.app(*LOADED, f"ALTER TABLE app.root ATTACH {TOP}")
        await operator.to_the_end()
        assert operator.named("app.top")


async def test_a_table_that_both_sides_attach_is_copied(bed: Bed) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        operator.switchover_s = 15.0  # the first one waits in vain for an applier that does not fail
        operator.prepare(LOADED[0], f"ALTER TABLE app.root ATTACH {TOP}")
        bed.app(*LOADED, f"ALTER TABLE app.root ATTACH {TOP}")
        bed.app("INSERT INTO app.root VALUES (2101, 1)", "UPDATE app.root SET v = 0 WHERE id = 2050")
        await operator.to_the_end()


async def test_a_replicated_table_that_becomes_a_partition_is_equal(bed: Bed) -> None:
    async with bed.streaming(*PARTITIONED, *LOADED) as operator:
        operator.by_hand = (f"ALTER TABLE app.root ATTACH {TOP}",)
        bed.app(f"ALTER TABLE app.root ATTACH {TOP}", "INSERT INTO app.root VALUES (2101, 1)")
        await operator.to_the_end()


async def test_a_partition_that_changes_places_with_a_table_is_named(bed: Bed, change: Apply) -> None:
    """The way in which a partition is replaced by one that was filled beside it."""
    new = (
        "CREATE TABLE app.new (LIKE app.low INCLUDING ALL)",
        "INSERT INTO app.new VALUES (1, -1), (700, 7)",
    )
    async with bed.streaming(*PARTITIONED) as operator:
        change(
            *new,
            DETACH,
            "ALTER TABLE app.low RENAME TO old",
            "ALTER TABLE app.new RENAME TO low",
            ATTACH,
            "DROP TABLE app.old",
        )
        bed.app("UPDATE app.root SET v = 0 WHERE id = 700")
        await operator.to_the_end()
        assert operator.named("app.low")


async def test_a_partition_that_is_no_longer_logged_is_named(bed: Bed) -> None:
    """The server refuses this for a table that a publication names, but not for its partitions."""
    async with bed.streaming(*PARTITIONED) as operator:
        operator.on_source = ("ALTER TABLE app.low SET LOGGED",)
        bed.app("ALTER TABLE app.low SET UNLOGGED", "INSERT INTO app.root VALUES (501, 501)")
        await operator.to_the_end()
        assert operator.named("app.low")


async def test_a_table_that_was_taken_out_of_the_publication_is_named(bed: Bed, change: Apply) -> None:
    async with bed.streaming(*ONE, *TWO) as operator:
        publication = f"ALTER PUBLICATION pgmig_{operator.live.migration_id}"
        change(
            f"{publication} DROP TABLE app.one",
            "INSERT INTO app.one VALUES (2, 2)",
            f"{publication} ADD TABLE app.one",
        )
        bed.app("INSERT INTO app.one VALUES (3, 3)")
        await operator.to_the_end()
        assert operator.named("app.one")


async def test_a_table_that_is_no_longer_published_is_named(bed: Bed) -> None:
    async with bed.streaming(*ONE, *TWO) as operator:
        publication = f"ALTER PUBLICATION pgmig_{operator.live.migration_id}"
        bed.app(f"{publication} DROP TABLE app.one", "INSERT INTO app.one VALUES (2, 2)")
        operator.on_source = (f"{publication} ADD TABLE app.one",)
        await operator.to_the_end()
        assert operator.named("app.one")


@pytest.mark.parametrize("change", ["SET (publish = 'insert')", "SET TABLE app.one WHERE (id < 2), app.two"])
async def test_a_publication_that_lacked_a_table_for_a_while_stops_the_migration(
    bed: Bed, change: str
) -> None:
    async with bed.streaming(*ONE, *TWO) as operator:
        publication = f"ALTER PUBLICATION pgmig_{operator.live.migration_id}"
        back = (
            "SET (publish = 'insert, update, delete, truncate')"
            if "publish" in change
            else "SET TABLE app.one, app.two"
        )
        bed.app(
            f"{publication} {change}",
            "UPDATE app.one SET v = 9",
            "INSERT INTO app.one VALUES (4, 4)",
            f"{publication} {back}",
        )
        bed.app("INSERT INTO app.one VALUES (3, 3)")
        await operator.to_the_end()
        assert operator.stops


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE app.one",
        "VACUUM FULL app.one",
        "CLUSTER app.one USING one_pkey",
        "ANALYZE app.one",
        "REINDEX TABLE app.one",
        "VACUUM (FREEZE) app.one",
        "ALTER TABLE app.one ALTER v SET STATISTICS 7",
    ],
)
async def test_maintenance_stops_nothing(bed: Bed, statement: str) -> None:
    async with bed.streaming(*ONE, *TWO) as operator:
        bed.app(statement, "INSERT INTO app.one VALUES (5, 5)")
        await operator.to_the_end()
        assert operator.stops == []
