"""Definitions without an equivalent in UTF-8 that the source gets while changes are replicated arrive byte
for byte, by the DDL that messages propose."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.coordinator.tables.explain import creations
from services.shared.model import ErrorKind, MigrationOptions, Phase, TableId
from services.shared.pg.catalog.partition_routes import places
from services.shared.pg.catalog.partitions import find_routes
from services.shared.pg.session.connection import connection
from tests.integration.coordinator.phases.test_encodings import encoded, rows
from tests.integration.coordinator.phases.test_stored_encodings import STRAY, Case, until_failed
from tests.integration.coordinator.tables.test_no_key_tables import flushed
from tests.support.migrations.advice import Stop
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE

pytestmark = pytest.mark.timeout(60)

PARTED = "CREATE TABLE parted (v text) PARTITION BY LIST (v)"
T = TableId("public", "t")
VALUES = "SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM t"
DEFINITIONS = """
    SELECT encode(convert_to(def, getdatabaseencoding()), 'escape') FROM (
        SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
        UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' AND conrelid > 16000
        UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid > 16000
            AND indrelid::regclass::text NOT LIKE 'pg%'
        UNION ALL SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition
    ) AS all_of_them (def) ORDER BY 1"""
"""Expressions, constraints, indexes and partition bounds."""


def stray(statement: str, value: str = "d~") -> str:
    """The statement with the value as a literal in place of %L."""
    quoted = statement.replace("'", "''")
    return f"DO $$ BEGIN EXECUTE format('{quoted}', '{value}'); END $$"


async def follow_the_hint(session: Session, dest: str) -> Stop:
    """Run the proposed DDL, and copy rows again if the hint says so."""
    view = await until_failed(session, "m")
    assert view.failure is not None
    assert view.failure.kind == ErrorKind.SCHEMA_DRIFT, view.failure
    stop = Stop(view.failure.kind, view.failure.message, view.failure.hint)
    assert stop.ddl, stop
    with psycopg.connect(dest, autocommit=True, client_encoding="UTF8") as conn:
        conn.execute(stop.ddl.encode())
    if stop.commands:
        await session.resync_tables("m", (T,))
    else:
        await session.resume("m")
    await until_phase(session, "m", Phase.STREAMING)
    return stop


@pytest.mark.parametrize("encoding", ["WIN1252", "SQL_ASCII"])
async def test_expressions_that_columns_get_are_the_same_on_the_destination(
    encoding: str,
    source_server: PostgresServer,
    dest_server: PostgresServer,
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    case = Case(encoding, "é", STRAY[encoding])
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, encoding, "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, encoding, "encoded_dest"))
        services = stack.enter_context(Services(nats_server, tmp_path))
        case.run(
            source,
            'CREATE TABLE t (id int PRIMARY KEY, v text, "caf@" text)',
            "INSERT INTO t VALUES (1, 'a')",
        )
        async with services.session() as session:
            await session.start("m", source, dest, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            case.run(
                source,
                stray("ALTER TABLE t ADD g text GENERATED ALWAYS AS (v || %L) STORED"),
                stray("ALTER TABLE t ALTER v SET DEFAULT %L", r"b\q''~"),
                stray('ALTER TABLE t ALTER "caf@" SET DEFAULT %L', "@"),
                "INSERT INTO t (id) VALUES (2)",
            )
            await follow_the_hint(session, dest)
            await flushed(session, source.partition("?")[0] + "?client_encoding=UTF8")
            wanted = rows(source, DEFINITIONS), rows(source, VALUES)
            async for _ in session.switchover("m", 20.0):
                pass
            assert (rows(dest, DEFINITIONS), rows(dest, VALUES)) == wanted
            await session.cleanup("m", force=True)


async def test_default_with_other_bytes_on_the_destination_is_a_difference(
    source_server: PostgresServer, dest_server: PostgresServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    case = Case("SQL_ASCII", "é", "e9")
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, "SQL_ASCII", "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, "SQL_ASCII", "encoded_dest"))
        services = stack.enter_context(Services(nats_server, tmp_path))
        case.run(source, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'a')")
        async with services.session() as session:
            await session.start("m", source, dest, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            case.run(dest, r"ALTER TABLE t ALTER v SET DEFAULT 'd\xe9'")  # the text of an escaped byte
            case.run(source, stray("ALTER TABLE t ALTER v SET DEFAULT %L"), "INSERT INTO t VALUES (2, 'b')")
            await follow_the_hint(session, dest)
            assert rows(dest, DEFINITIONS) == rows(source, DEFINITIONS)
            await session.cleanup("m", force=True)


async def test_value_of_an_added_column_does_not_call_the_cast_of_its_types_owner(
    source_server: PostgresServer, dest_server: PostgresServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    case = Case("WIN1252", "é", "81")
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, "WIN1252", "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, "WIN1252", "encoded_dest"))
        services = stack.enter_context(Services(nats_server, tmp_path))
        case.run(
            source,
            "CREATE TYPE e AS ENUM ('@', 'other')",
            "CREATE FUNCTION f(text) RETURNS e LANGUAGE sql AS 'SELECT enum_last(NULL::e)'",
            "CREATE CAST (text AS e) WITH FUNCTION f(text)",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "INSERT INTO t VALUES (1)",
        )
        async with services.session() as session:
            await session.start("m", source, dest, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            case.run(
                source,
                "ALTER TABLE t ADD v e DEFAULT '@'",
                "ALTER TABLE t ALTER v DROP DEFAULT",
                "INSERT INTO t VALUES (2, 'other')",
            )
            await follow_the_hint(session, dest)
            await flushed(session, source.partition("?")[0] + "?client_encoding=UTF8")
            assert rows(dest, VALUES) == rows(source, VALUES)
            await session.cleanup("m", force=True)


@pytest.mark.parametrize("encoding", ["WIN1252", "SQL_ASCII"])
async def test_new_tables_have_the_same_definitions_on_the_destination(
    encoding: str, source_server: PostgresServer, dest_server: PostgresServer
) -> None:
    case = Case(encoding, "é", STRAY[encoding])
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, encoding, "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, encoding, "encoded_dest"))
        case.run(source, PARTED)
        case.run(dest, PARTED, 'CREATE SEQUENCE "ind@"')  # an index has this name on the source
        case.run(
            source,
            stray("CREATE TABLE part PARTITION OF parted FOR VALUES IN (%L)"),
            'CREATE TABLE t (id int PRIMARY KEY, v text, "caf@" text)',
            stray("ALTER TABLE t ALTER v SET DEFAULT %L"),
            stray("ALTER TABLE t ADD CHECK (v <> %L)", "e~"),
            stray('CREATE INDEX "ind@" ON t (v) WHERE "caf@" <> %L', "@~"),
        )
        tables = [T, TableId("public", "part")]
        async with connection(source, "source") as here, connection(dest, "destination") as there:
            found = await creations(here, there, tables, copied=False)
            assert (await places(here, tables))[tables[1]][1]
        for statement in (statement for one in found for statement in one.statements):
            with psycopg.connect(
                dest, autocommit=True, client_encoding="UTF8", options=ASKS_TO_WRITE
            ) as conn:
                conn.execute(statement.encode())
        case.run(dest, 'DROP SEQUENCE "ind@"', 'ALTER INDEX "ind@_1" RENAME TO "ind@"')
        assert rows(dest, DEFINITIONS) == rows(source, DEFINITIONS)
        async with connection(source, "source") as here, connection(dest, "destination") as there:
            assert await places(here, tables) == await places(there, tables)
            assert await find_routes(here, there) == ()
