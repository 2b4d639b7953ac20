"""Reading the catalogs calls no cast that the owner of a type has defined.

A column that was added with a default has its value in pg_attribute.attmissingval, of the column's type.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from services.shared.model import Lsn, MigrationId, MigrationOptions, Phase, ReplicaIdentity, TableId
from services.shared.pg.apply.relation_match import describe_target
from services.shared.pg.catalog.columns import read_columns
from services.shared.pg.catalog.server import read_server
from services.shared.pg.catalog.table_identity import read_identities
from services.shared.pg.catalog.tables import list_tables
from services.shared.pg.preflight import functions
from services.shared.pg.preflight.checks import check_migration
from services.shared.pg.preflight.encoding import check_definitions
from services.shared.pg.schema.existing_objects import plan_to_fill
from services.shared.pg.selection.rules import EVERYTHING
from services.shared.pg.session.connection import connection
from services.shared.pg.unpublished.extension_tables import list_extension_tables
from services.shared.pgoutput import Relation, RelationColumn
from tests.integration.coordinator.phases.test_encodings import encoded
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until, until_phase

INT4 = 23
TABLE = TableId("public", "t")
CREATE = (
    "CREATE TYPE kind AS ENUM ('one')",
    "CREATE TYPE pair AS (a kind, b text)",
    "CREATE DOMAIN narrow AS kind",
    "CREATE TABLE t (id int PRIMARY KEY)",
    "INSERT INTO t VALUES (1)",
)
HIJACK = (
    "CREATE SEQUENCE called",
    *(
        statement
        for source in ("kind", "pair")
        for target, value in (("json", "1"), ("jsonb", "1"), ("text", "one"))
        for statement in (
            f"CREATE FUNCTION hijack_{target}({source}) RETURNS {target} IMMUTABLE LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_catalog.nextval('public.called'); RETURN '{value}'; END $$",
            f"CREATE CAST ({source} AS {target}) WITH FUNCTION hijack_{target}({source}) AS IMPLICIT",
        )
    ),
)
ADD = (
    "ALTER TABLE t ADD k kind DEFAULT 'one', ADD l kind[] DEFAULT '{one}', ADD m pair DEFAULT '(one,x)',"
    " ADD n narrow DEFAULT 'one'"
)
CALLED = "SELECT is_called FROM called"


async def preflight_to_fill(source: AsyncConnection, destination: AsyncConnection) -> None:
    await plan_to_fill(source, destination, EVERYTHING)


async def owners_functions(source: AsyncConnection, destination: AsyncConnection) -> None:
    facts = await read_server(destination, "destination")
    await functions.check(source, destination, facts, EVERYTHING, no_owner=True)


async def tables(source: AsyncConnection, _: AsyncConnection) -> None:
    assert len(await list_tables(source)) == 1


async def identities(source: AsyncConnection, _: AsyncConnection) -> None:
    assert TABLE in await read_identities(source, MigrationId("m").forward)


async def columns(source: AsyncConnection, _: AsyncConnection) -> None:
    found = (await read_columns(source, [TABLE]))[TABLE]
    assert [one.missing for one in found] == [None, "one", "{one}", "(one,x)", "one"]


async def relation(source: AsyncConnection, _: AsyncConnection) -> None:
    sent = tuple(RelationColumn(name, INT4, -1, name == "id") for name in ("id", "k", "l", "m", "n"))
    await describe_target(source, Relation(1, "public", "t", ReplicaIdentity.DEFAULT, sent), Lsn(1))


async def extension_tables(source: AsyncConnection, _: AsyncConnection) -> None:
    await source.execute(
        "UPDATE pg_catalog.pg_extension SET extconfig = ARRAY['public.t'::pg_catalog.regclass::oid],"
        " extcondition = ARRAY['']"
    )
    assert [one.columns for one in await list_extension_tables(source)] == [("id", "k", "l", "m", "n")]


Reader = Callable[[AsyncConnection, AsyncConnection], Awaitable[None]]
READERS = (
    *(preflight_to_fill, owners_functions, tables, identities, columns, relation),
    extension_tables,
)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
async def test_catalogs_are_read_without_casts_of_owners(source_db: str, dest_db: str, read: Reader) -> None:
    run(source_db, *CREATE, *HIJACK, ADD)
    if read is preflight_to_fill:
        run(dest_db, *CREATE, *HIJACK, ADD)
    async with connection(source_db, "source") as source, connection(dest_db, "destination") as destination:
        await read(source, destination)
    assert rows(source_db, CALLED) == [(False,)]
    if read is preflight_to_fill:
        assert rows(dest_db, CALLED) == [(False,)]


async def test_the_preflight_calls_no_casts_of_owners(source_db: str, dest_db: str) -> None:
    run(source_db, *CREATE, *HIJACK, ADD)
    await check_migration(MigrationId("m"), source_db, dest_db, follow=True)
    assert rows(source_db, CALLED) == [(False,)]


async def test_values_of_old_rows_are_checked_without_casts_of_owners(source_server: PostgresServer) -> None:
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, "WIN1252", "encoded_source"))
        run(source, *CREATE, *HIJACK, ADD)
        async with connection(source, "source") as conn:
            await check_definitions(conn, EVERYTHING, data_only=False)
        assert rows(source, CALLED) == [(False,)]


async def test_a_migration_calls_no_casts_of_owners_in_any_phase(
    source_db: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    run(source_db, *CREATE, *HIJACK)
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source_db, dest_db, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            for uri in (dest_db, source_db):
                run(uri, ADD)
            run(source_db, "INSERT INTO t VALUES (2)", "UPDATE t SET l = NULL WHERE id = 1")
            await until(
                session, "m", lambda view: any("altered columns of" in event.text for event in view.events)
            )
            assert [step async for step in session.switchover("m", 30.0)]
    query = "SELECT id, l FROM t ORDER BY id"
    assert rows(dest_db, query) == rows(source_db, query)
    for uri in (source_db, dest_db):
        assert rows(uri, CALLED) == [(False,)], uri
