"""A table that differs on the destination stops the pipeline with the DDL that cures it."""

from __future__ import annotations

import pytest

from services.shared.model import (
    ErrorKind,
)
from tests.support.pipeline.in_process import DDL, equal, pipeline, rows, run
from tests.support.servers.nats import NatsServer

pytestmark = pytest.mark.timeout(240)


async def test_a_table_that_the_destination_lacks_is_drift(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        p.start_applier()
        run(
            source_db,
            "INSERT INTO t VALUES (1, 'a', NULL)",
            "CREATE TYPE mood AS ENUM ('good')",
            'ALTER TABLE t ADD extra numeric(9,2)[], ADD "Odd ""name" mood',
            "INSERT INTO t VALUES (2, 'b', NULL, '{7.25}', 'good')",
            "INSERT INTO t VALUES (3, 'behind', NULL, NULL, NULL)",
        )
        error = await p.failure("applier")
        assert error.kind is ErrorKind.SCHEMA_DRIFT
        assert error.xid == rows(source_db, "SELECT xmin::text::bigint FROM t WHERE id = 2")[0][0]
        assert "on the destination (id integer, v text, big text)" in error.message
        assert "(id integer, v text, big text, extra numeric(9,2)[], Odd" in error.message
        ddl = error.hint.removeprefix("run on the destination: ").removesuffix("; then continue")
        assert ddl == (
            'BEGIN READ WRITE; ALTER TABLE "public"."t" ADD COLUMN "extra" numeric(9,2)[],'
            ' ADD COLUMN "Odd ""name" <its type on the source>; COMMIT'
        )
        assert rows(dest_db, "SELECT id FROM t") == [(1,)]
        p.start_applier()
        assert (await p.failure("applier")).lsn == error.lsn, "it stops at the same place until cured"
        run(dest_db, "CREATE TYPE mood AS ENUM ('good')", ddl.replace("<its type on the source>", "mood"))
        p.start_applier()
        await p.drain("one")
        equal(p)


async def test_a_table_that_is_gone_from_the_destination_comes_with_its_ddl(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as p:
        await p.start_decoder()
        run(dest_db, "DROP TABLE t")
        run(source_db, "INSERT INTO t VALUES (1, 'a', NULL)")
        p.start_applier()
        error = await p.failure("applier")
        assert error.kind is ErrorKind.SCHEMA_DRIFT
        create = 'CREATE TABLE "public"."t" ("id" integer, "v" text, "big" text, PRIMARY KEY ("id"))'
        assert create in error.hint
        run(dest_db, create)
        p.start_applier()
        await p.drain("one")
        equal(p)
