"""Tables that are rewritten, truncated, dropped or created again after the snapshot and before their copy.

A snapshot shows such a table as empty, or does not show it at all, and says nothing. Each test ends
with equal databases.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.shared.model import Phase
from tests.support.migrations.changing import CLONE, CUT, FOLLOW, Bed

pytestmark = pytest.mark.timeout(240)

SMALL = (
    "CREATE TABLE app.small (id int PRIMARY KEY, v int)",
    "INSERT INTO app.small SELECT n, n FROM generate_series(1, 1000) n",
)
WIDE = (
    "CREATE TABLE app.wide (id int PRIMARY KEY, v int, filler text)",
    "INSERT INTO app.wide SELECT n, n, 'filler' FROM generate_series(1, 20000) n",
)
REWRITES = {
    "another type": "ALTER TABLE app.{} ALTER v TYPE bigint",
    "other values": "ALTER TABLE app.{} ALTER v TYPE int USING v + 1",
    "a volatile default": "ALTER TABLE app.{} ADD w uuid DEFAULT gen_random_uuid()",
}


@pytest.mark.parametrize("rewrite", REWRITES)
async def test_a_table_that_is_rewritten_before_its_copy_is_complete(bed: Bed, rewrite: str) -> None:
    async with bed.in_copy(*SMALL) as operator:
        bed.app(REWRITES[rewrite].format("small"), "INSERT INTO app.small (id, v) VALUES (1001, 1)")
        operator.release()
        await operator.to_the_end()
        if rewrite != "other values":
            assert operator.named("app.small"), "the destination's columns were made before"


@pytest.mark.parametrize("rewrite", REWRITES)
async def test_a_table_in_parts_that_is_rewritten_before_they_are_planned_is_complete(
    bed: Bed, rewrite: str
) -> None:
    async with bed.in_schema(*WIDE, options=CUT) as operator:
        bed.app(REWRITES[rewrite].format("wide"))
        operator.release()
        await operator.to_the_end()


@pytest.mark.parametrize("options", [FOLLOW, CUT], ids=["whole", "in parts"])
async def test_a_table_that_is_emptied_and_filled_before_its_copy_is_complete(
    bed: Bed, options: object
) -> None:
    assert options in (FOLLOW, CUT)
    async with bed.in_copy(*SMALL, *WIDE, options=CUT if options == CUT else FOLLOW) as operator:
        for table in ("small", "wide"):
            bed.app(
                f"UPDATE app.{table} SET v = -v WHERE id < 100",
                f"DELETE FROM app.{table} WHERE id < 10",
                f"TRUNCATE app.{table}",
                f"INSERT INTO app.{table} (id, v) VALUES (5, 5)",
                f"UPDATE app.{table} SET v = 6 WHERE id = 5",
            )
        operator.release()
        await operator.to_the_end()
        assert operator.stops == []


@pytest.mark.parametrize("after", ["VACUUM FULL app.small", "CLUSTER app.small USING small_pkey"])
async def test_maintenance_of_a_table_before_its_copy_does_not_restart_the_copy(bed: Bed, after: str) -> None:
    async with bed.in_copy(*SMALL) as operator:
        bed.app("UPDATE app.small SET v = -v WHERE id < 100", after)
        operator.release()
        await operator.to_the_end()
        assert operator.stops == []


MOVE = ("INSERT INTO app.archive SELECT * FROM app.live", "TRUNCATE app.live")


@pytest.mark.parametrize("rows_first", [True, False], ids=["emptied last", "emptied first"])
async def test_a_plain_clone_keeps_rows_that_move_from_a_table_to_another(bed: Bed, rows_first: bool) -> None:
    ddl = (
        "CREATE TABLE app.live (id int PRIMARY KEY)",
        "CREATE TABLE app.archive (id int)",
        "INSERT INTO app.live SELECT generate_series(1, 1000)",
    )
    move = (
        MOVE
        if rows_first
        else ("CREATE TEMP TABLE t AS TABLE app.live", MOVE[1], "INSERT INTO app.archive TABLE t")
    )
    async with bed.in_copy(*ddl, options=CLONE) as operator:
        bed.at_once(*move)
        operator.release()
        await operator.to_the_end()
        assert operator.stops == []


async def test_a_plain_clone_of_a_table_that_is_rewritten_is_complete(bed: Bed) -> None:
    async with bed.in_copy(*SMALL, options=replace(CLONE, split_tables_larger_than=16 << 10)) as operator:
        bed.app(REWRITES["other values"].format("small"))
        operator.release()
        await operator.to_the_end()


async def test_a_plain_clone_takes_tables_that_were_created_meanwhile(bed: Bed) -> None:
    async with bed.in_copy(*SMALL, options=CLONE) as operator:
        bed.app(
            "CREATE TABLE app.late (id serial PRIMARY KEY, v text UNIQUE)",
            "CREATE INDEX late_lower ON app.late (lower(v))",
            "INSERT INTO app.late (v) VALUES ('one'), ('two')",
            REWRITES["other values"].format("small"),  # so that a new snapshot is taken
        )
        operator.release()
        await operator.to_the_end()
        assert operator.named("app.late")
        assert all("resync-table" not in stop.hint for stop in operator.stops)


async def test_a_plain_clone_copies_tables_that_have_become_unlogged(bed: Bed) -> None:
    async with bed.in_copy(*SMALL, options=CLONE) as operator:
        bed.app("ALTER TABLE app.small SET UNLOGGED")
        operator.release()
        await operator.until(lambda view: view.phase in {Phase.COMPLETE, Phase.FAILED})
        assert all("resync-table" not in stop.hint for stop in operator.stops)
        assert (await operator.settled()).phase is Phase.COMPLETE


@pytest.mark.parametrize("held", ["in phase copy", "in phase schema", "paused in phase schema"])
async def test_a_table_recreated_before_its_copy_is_replicated(bed: Bed, held: str) -> None:
    begin = bed.in_copy if held == "in phase copy" else bed.in_schema
    async with begin(*SMALL) as operator:
        session, name = operator.live.session, operator.live.migration_id
        if held.startswith("paused"):
            await session.pause(name)
        bed.at_once(
            "DROP TABLE app.small",
            SMALL[0],
            "INSERT INTO app.small SELECT n, -n FROM generate_series(1, 500) n",
        )
        operator.release()
        if held.startswith("paused"):
            await session.resume(name)
        await operator.until(lambda view: view.phase in {Phase.STREAMING, Phase.FAILED})
        bed.app("INSERT INTO app.small VALUES (501, 0)", "UPDATE app.small SET v = 1 WHERE id = 7")
        await operator.to_the_end()


async def test_tables_that_swap_names_before_their_copy_keep_their_rows(bed: Bed) -> None:
    ddl = (
        *SMALL,
        "CREATE TABLE app.other (id int PRIMARY KEY, v int)",
        "INSERT INTO app.other VALUES (1, -1)",
    )
    async with bed.in_copy(*ddl) as operator:
        bed.at_once(*SWAP)
        bed.app("INSERT INTO app.small VALUES (2, -2)", "INSERT INTO app.other VALUES (1001, 1)")
        operator.release()
        await operator.to_the_end()


SWAP = (
    "ALTER TABLE app.small RENAME TO swapped",
    "ALTER TABLE app.other RENAME TO small",
    "ALTER TABLE app.swapped RENAME TO other",
)


async def test_a_partition_that_goes_before_indexes_are_made_leaves_its_roots_indexes_valid(bed: Bed) -> None:
    """The schema is dumped again after a table was renamed, and then lacks the partition's index."""
    ddl = (
        *SMALL,
        "CREATE TABLE app.root (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE app.low PARTITION OF app.root FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE app.high PARTITION OF app.root FOR VALUES FROM (100) TO (200)",
        "INSERT INTO app.root SELECT generate_series(90, 110)",
    )
    async with bed.in_copy(*ddl) as operator:
        bed.app("ALTER TABLE app.small RENAME TO other")
        operator.release()
        await operator.until(lambda view: view.phase is Phase.FAILED)
        bed.app("DROP TABLE app.low")
        await operator.to_the_end()
        assert operator.named("app.low")


async def test_the_ddl_of_a_new_partition_is_reported_before_indexes_are_complete(bed: Bed) -> None:
    """Two snapshots: the applier brings the tables to one moment before foreign keys are made."""
    ddl = (
        *SMALL,
        "CREATE TABLE app.root (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE app.low PARTITION OF app.root FOR VALUES FROM (0) TO (100)",
    )
    async with bed.in_copy(*ddl) as operator:
        bed.app(
            "CREATE TABLE app.high PARTITION OF app.root FOR VALUES FROM (100) TO (200)",
            "INSERT INTO app.root SELECT generate_series(90, 110)",
            "TRUNCATE app.small",
            "INSERT INTO app.small VALUES (1, 1)",
        )
        operator.release()
        view = await operator.until(lambda view: view.phase is Phase.FAILED)
        assert view.resume_phase is Phase.INDEXES
        await operator.to_the_end()
        assert [
            'BEGIN READ WRITE; CREATE TABLE "app"."high" PARTITION OF' in stop.ddl for stop in operator.stops
        ] == [True]
