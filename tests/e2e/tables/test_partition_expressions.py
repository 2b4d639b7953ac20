"""The expression of a generated column is changed in one partition, or in all. Each test ends with equal
databases."""

from __future__ import annotations

import pytest

from tests.support.migrations.changing import Bed

pytestmark = pytest.mark.timeout(240)

PARTITIONED = (
    "CREATE TABLE app.root (id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (v * 10) STORED)"
    " PARTITION BY RANGE (id)",
    "CREATE TABLE app.low PARTITION OF app.root FOR VALUES FROM (0) TO (1000)",
    "CREATE TABLE app.high PARTITION OF app.root FOR VALUES FROM (1000) TO (2000)",
    "INSERT INTO app.root (id, v) SELECT n * 100, n FROM generate_series(1, 19) n",
)
SET = "ALTER TABLE app.{} ALTER COLUMN g SET EXPRESSION AS (v * {})"
INSERT = "INSERT INTO app.root (id, v) VALUES (50, 3), (1050, 3)"


async def test_expression_of_one_partition_is_proposed_for_the_destination(bed: Bed) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        bed.app(SET.format("low", 20), INSERT)
        await operator.to_the_end()
        ddl = "; ".join(stop.ddl for stop in operator.stops)
        assert 'ALTER TABLE "app"."low" ALTER COLUMN "g" SET EXPRESSION' in ddl
        assert '"root"' not in ddl


async def test_expression_of_the_root_is_set_once(bed: Bed) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        bed.app(SET.format("root", 20), INSERT)
        await operator.to_the_end()
        ddl = "; ".join(stop.ddl for stop in operator.stops)
        assert ddl.count("SET EXPRESSION") == 1


async def test_root_and_one_partition_get_expressions_of_their_own(bed: Bed) -> None:
    async with bed.streaming(*PARTITIONED) as operator:
        bed.app(SET.format("root", 20), SET.format("low", 30), INSERT)
        await operator.to_the_end()
