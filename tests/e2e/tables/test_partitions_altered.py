"""Columns of one partition are altered while it is detached: those of its root's other partitions keep their
values on the destination. Each test ends with equal databases.
"""

from __future__ import annotations

import psycopg
import pytest

from services.shared.model import PgmigError, Phase
from tests.support.migrations.advice import Stop, stop_of
from tests.support.migrations.changing import Bed

pytestmark = pytest.mark.timeout(240)

PARTITIONED = (
    "CREATE TABLE app.root (id int PRIMARY KEY, v int, w text) PARTITION BY RANGE (id)",
    "CREATE TABLE app.low PARTITION OF app.root FOR VALUES FROM (0) TO (1000)",
    "CREATE TABLE app.high PARTITION OF app.root FOR VALUES FROM (1000) TO (2000)",
    "INSERT INTO app.root SELECT n * 100, n, 'w' || n FROM generate_series(1, 19) n",
)
ATTEMPTS = 4
DETACH = "ALTER TABLE app.root DETACH PARTITION app.low"
ATTACH = "ALTER TABLE app.root ATTACH PARTITION app.low FOR VALUES FROM (0) TO (1000)"
REPLACED = "ALTER TABLE app.low DROP v, ADD v int DEFAULT 4"
ALTERATIONS = {
    "a column replaced": (REPLACED,),
    "a column dropped": ("ALTER TABLE app.low DROP v",),
    "a column added": ("ALTER TABLE app.low ADD x int DEFAULT 4",),
    "columns renamed crosswise": (
        "ALTER TABLE app.low RENAME v TO x",
        "ALTER TABLE app.low RENAME w TO v",
        "ALTER TABLE app.low RENAME x TO w",
    ),
    "another type": ("ALTER TABLE app.low ALTER v TYPE text USING 'v' || v",),
}


def rows(uri: str) -> list[tuple[object, ...]]:
    with psycopg.connect(uri) as conn:
        return conn.execute("SELECT tableoid::regclass::text, id, v, w FROM app.root ORDER BY id").fetchall()


@pytest.mark.parametrize("alteration", ALTERATIONS)
async def test_a_partition_that_is_detached_and_altered(bed: Bed, alteration: str) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        bed.app(DETACH, *ALTERATIONS[alteration], "INSERT INTO app.low (id) VALUES (50)")
        await operator.to_the_end()
        assert operator.named("app.low")


@pytest.mark.parametrize("alteration", ["a column dropped", "a column added"])
async def test_the_root_is_altered_too(bed: Bed, alteration: str) -> None:
    """The partition is detached before, so that the root's alteration is not made twice."""
    async with bed.streaming(*PARTITIONED) as operator:
        alterations = ALTERATIONS[alteration]
        bed.app(DETACH, *alterations, *(text.replace("app.low", "app.root") for text in alterations))
        await operator.to_the_end()


@pytest.mark.parametrize(
    "alteration", ["DROP w, ADD w int DEFAULT 4", "DROP w", "DROP v", "ADD x int DEFAULT 4"]
)
async def test_the_root_is_altered_alone_where_partitions_are_published_one_by_one(
    bed: Bed, alteration: str
) -> None:
    """Nothing but its place tells that the partition has changed. Its values are those of before."""
    root, *leaves, rows = PARTITIONED
    keyed = [leaf.replace("app.root FOR", "app.root (PRIMARY KEY (id)) FOR") for leaf in leaves]
    async with bed.streaming(root.replace("PRIMARY KEY", "NOT NULL"), *keyed, rows) as operator:
        bed.app(DETACH, f"ALTER TABLE app.root {alteration}")
        await operator.to_the_end()


@pytest.mark.parametrize("filled", [True, False])
async def test_a_partition_that_is_attached_again_with_its_columns_in_another_order(
    bed: Bed, filled: bool
) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        bed.at_once(DETACH, REPLACED, "ALTER TABLE app.low ALTER v DROP DEFAULT", ATTACH)
        if filled:
            bed.app("INSERT INTO app.root VALUES (51, 1, 'w'), (1001, 1, 'w')")
            await operator.until(lambda view: view.phase is Phase.FAILED)
        written = rows(bed.source)
        for _ in range(ATTEMPTS):
            try:
                await operator.live.switch_over(60)
            except PgmigError as exc:
                failure = (await operator.settled()).failure
                await operator.follow(stop_of(failure) if failure else Stop(exc.kind, exc.message, exc.hint))
            else:
                break
        # The order of columns may differ between a partition and its root.
        assert rows(bed.dest) == written


async def test_a_partition_that_is_exchanged_while_the_roots_columns_are_renamed_crosswise(bed: Bed) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        bed.app(
            "CREATE TABLE app.fresh (LIKE app.low INCLUDING ALL)",
            "INSERT INTO app.fresh VALUES (7, 7, 'seven')",
            DETACH,
            "DROP TABLE app.low",
            "ALTER TABLE app.fresh RENAME TO low",
            ATTACH,
            *(text.replace("app.low", "app.root") for text in ALTERATIONS["columns renamed crosswise"]),
        )
        await operator.to_the_end()


async def test_a_root_whose_columns_are_in_another_order_on_the_destination(bed: Bed) -> None:
    """Another order can only be had by adding columns again, which empties them in all partitions."""
    async with bed.streaming(*PARTITIONED) as operator:
        operator.prepare("ALTER TABLE app.root DROP v, ADD v int")
        await operator.to_the_end()
        assert operator.named("app.root")


@pytest.mark.parametrize("alteration", ALTERATIONS)
async def test_a_partition_that_is_detached_and_altered_before_its_copy(bed: Bed, alteration: str) -> None:
    async with bed.in_copy(*PARTITIONED) as operator:
        bed.app(DETACH, *ALTERATIONS[alteration], "INSERT INTO app.low (id) VALUES (50)")
        operator.release()
        await operator.to_the_end()
