"""Text without an equivalent in UTF-8 arrives byte for byte, in tables with names that are not ASCII."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    Lsn,
    MigrationId,
    MigrationOptions,
    MigrationView,
    PgmigError,
    Phase,
)
from services.shared.pg.preflight.checks import check_migration
from services.shared.pg.replication.late_writes import late_writes
from services.shared.pg.session.connection import connection
from tests.integration.coordinator.phases.test_encodings import encoded, rows
from tests.integration.coordinator.tables.test_no_key_tables import flushed
from tests.support.migrations.advice import Stop
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.releases import UnobtainableError, server_of
from tests.support.services.services import Services, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE

pytestmark = pytest.mark.timeout(180)

BEFORE_14 = 13


class Case(NamedTuple):
    """stray: bytes (in hexadecimal digits) that can be stored, but have no equivalent in UTF-8. Python has no
    codec for EUC_TW."""

    encoding: str
    letter: str
    stray: str

    def sql(self, statement: str) -> bytes:
        """In the statement, @ is the letter and ~ is the stray bytes. It is sent in UTF-8."""
        stray = f"'||pg_catalog.convert_from('\\x{self.stray}', '{self.encoding}')||'"
        return statement.replace("@", self.letter).replace("~", stray).encode()

    def run(self, uri: str, *statements: str) -> None:
        with psycopg.connect(uri, autocommit=True, client_encoding="UTF8", options=ASKS_TO_WRITE) as conn:
            for statement in statements:
                conn.execute(self.sql(statement))

    def rows(self, uri: str, query: str) -> list[tuple[object, ...]]:
        return rows(uri, self.sql(query).decode())


WIN1252 = Case("WIN1252", "é", "81")
CASES = [WIN1252, Case("EUC_JIS_2004", "あ", "a4fe"), Case("EUC_TW", "中", "aefe")]
STRAY = {"SQL_ASCII": "e9", **{case.encoding: case.stray for case in CASES}}
each_case = pytest.mark.parametrize("case", CASES, ids=[case.encoding for case in CASES])

SCHEMA = [
    'CREATE SCHEMA "sch@ma"',
    """CREATE TYPE "sch@ma"."m@od" AS ENUM ('ga@', 'sad')""",
    'CREATE TABLE "sch@ma"."caf@" ("cl@" text PRIMARY KEY, "pr@nom" text, m "sch@ma"."m@od", a text[])',
    'CREATE TABLE "sch@ma"."full@" ("v@" text, n int)',
    'ALTER TABLE "sch@ma"."full@" REPLICA IDENTITY FULL',
    'CREATE TABLE "sch@ma"."empt@" (id int PRIMARY KEY)',
    """INSERT INTO "sch@ma"."caf@" SELECT 'k@~' || i, 'x~y', 'ga@', ARRAY['~', NULL, '@']
         FROM generate_series(1, 300) i""",
    """INSERT INTO "sch@ma"."full@" VALUES ('one~', 1), ('one~', 1), ('two@', 2), ('thr~', 3)""",
    'INSERT INTO "sch@ma"."empt@" SELECT generate_series(1, 10)',
]
CHANGES = [
    """INSERT INTO "sch@ma"."caf@" VALUES ('more~', 'n~w', 'ga@', ARRAY['~'])""",
    """INSERT INTO "sch@ma"."caf@" SELECT 'many@' || i, repeat('@~', 500), 'sad', NULL
         FROM generate_series(1, 100) i""",
    """INSERT INTO "sch@ma"."caf@" VALUES ('long', repeat('@~', 3000000), NULL, NULL)""",
    """UPDATE "sch@ma"."caf@" SET "cl@" = "cl@" || '~', m = 'sad' WHERE "cl@" LIKE 'k@~%7'""",
    """UPDATE "sch@ma"."caf@" SET "pr@nom" = 'z~' WHERE "cl@" LIKE 'k@~%3'""",
    """DELETE FROM "sch@ma"."caf@" WHERE "cl@" = 'k@~5'""",
    """UPDATE "sch@ma"."full@" SET "v@" = 'new~'
        WHERE ctid = (SELECT ctid FROM "sch@ma"."full@" WHERE n = 1 LIMIT 1)""",
    """DELETE FROM "sch@ma"."full@" WHERE n = 3""",
    'TRUNCATE "sch@ma"."empt@"',
]
DIGEST = """
    SELECT (SELECT md5(string_agg(t::text, '' ORDER BY "cl@" COLLATE "C")) FROM "sch@ma"."caf@" t),
           (SELECT md5(string_agg(f::text, '' ORDER BY f::text COLLATE "C")) FROM "sch@ma"."full@" f),
           (SELECT count(*) FROM "sch@ma"."caf@"), (SELECT count(*) FROM "sch@ma"."empt@")"""


async def until_failed(session: Session, migration_id: str) -> MigrationView:
    async for view in session.follow(migration_id):
        if view.phase is Phase.FAILED:
            return view
    raise AssertionError("the migration was cleaned up")


async def migrate(case: Case, source: str, dest: str, nats_server: NatsServer, tmp_path: Path) -> None:
    case.run(source, *SCHEMA)
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source, dest, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            assert case.rows(dest, DIGEST) == case.rows(source, DIGEST)
            case.run(source, *CHANGES)
            await flushed(session, source.partition("?")[0] + "?client_encoding=UTF8")
            assert case.rows(dest, DIGEST) == case.rows(source, DIGEST)
            case.run(dest, """DELETE FROM "sch@ma"."caf@" WHERE "cl@" = 'many@1'""")
            case.run(source, """UPDATE "sch@ma"."caf@" SET m = 'ga@' WHERE "cl@" = 'many@1'""")
            view = await until_failed(session, "m")
            assert view.failure is not None
            assert view.failure.kind == ErrorKind.MISSING_ROW
            assert case.sql("sch@ma.caf@").decode() in view.failure.message
            if case.encoding != "EUC_TW":
                assert case.sql("cl@=many@1").decode() in view.failure.message
            await session.cleanup("m", force=True)


@each_case
async def test_text_without_an_equivalent_arrives_byte_for_byte(
    case: Case,
    source_server: PostgresServer,
    dest_server: PostgresServer,
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, case.encoding, "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, case.encoding, "encoded_dest"))
        await migrate(case, source, dest, nats_server, tmp_path)


@pytest.mark.xdist_group("source_versions")
async def test_text_without_an_equivalent_arrives_from_an_older_source(
    dest_server: PostgresServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    try:
        install = server_of(BEFORE_14)
    except UnobtainableError as exc:
        pytest.skip(str(exc))
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(install, fsync=False))
        source = stack.enter_context(encoded(server, WIN1252.encoding, "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, WIN1252.encoding, "encoded_dest"))
        await migrate(WIN1252, source, dest, nats_server, tmp_path)


async def test_the_reason_for_a_refused_row_is_in_the_log_if_it_cannot_be_sent(
    source_server: PostgresServer, dest_server: PostgresServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, "WIN1252", "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, "WIN1252", "encoded_dest"))
        WIN1252.run(source, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'x~')")
        WIN1252.run(dest, "CREATE TABLE t (id int PRIMARY KEY, v text CHECK (length(v) < 2))")
        services = stack.enter_context(Services(nats_server, tmp_path))
        async with services.session() as session:
            await session.start("m", source, dest, MigrationOptions(data_only=True))
            view = await until_failed(session, "m")
            assert view.failure is not None
            assert view.failure.kind == ErrorKind.COPY_FAILED
            assert "public.t" in view.failure.message
            assert "see that server's log" in view.failure.hint
            await session.cleanup("m", force=True)


@pytest.mark.parametrize("encoding", ["WIN1252", "SQL_ASCII"])
async def test_column_that_is_added_with_such_a_value_is_added_with_the_same_on_the_destination(
    encoding: str,
    source_server: PostgresServer,
    dest_server: PostgresServer,
    nats_server: NatsServer,
    tmp_path: Path,
) -> None:
    """Rows from before the column was added have its value in the catalog only."""
    case = Case(encoding, "é", STRAY[encoding])
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, encoding, "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, encoding, "encoded_dest"))
        services = stack.enter_context(Services(nats_server, tmp_path))
        case.run(source, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
        if encoding == "SQL_ASCII":
            case.run(source, *added("old"))
        async with services.session() as session:
            await session.start("m", source, dest, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            case.run(source, *added("new"), "INSERT INTO t (id, new) VALUES (2, 'n')")
            view = await until_failed(session, "m")
            assert view.failure is not None
            assert view.failure.kind == ErrorKind.SCHEMA_DRIFT
            stop = Stop(view.failure.kind, view.failure.message, view.failure.hint)
            assert stop.ddl, stop
            with psycopg.connect(dest, autocommit=True, client_encoding="UTF8") as conn:
                conn.execute(stop.ddl.encode())
            await session.resume("m")
            await until_phase(session, "m", Phase.STREAMING)
            await flushed(session, source.partition("?")[0] + "?client_encoding=UTF8")
            digest = "SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM t"
            assert rows(dest, digest) == rows(source, digest)
            await session.cleanup("m", force=True)


def added(column: str) -> tuple[str, str]:
    return (
        f"ALTER TABLE t ADD {column} varchar(9) DEFAULT '{column}~'",
        f"ALTER TABLE t ALTER {column} DROP DEFAULT",
    )


REFUSED = {
    "name": ('DO $$ BEGIN EXECUTE format(\'CREATE TABLE %I (id int PRIMARY KEY)\', \'bad~\'); END $$', "bad"),
    "default": ("DO $$ BEGIN EXECUTE format('CREATE TABLE t (id int PRIMARY KEY, v text DEFAULT %L)', 'd~');"
                " END $$", "column v of table public.t"),
    "comment": ("CREATE TABLE t (id int PRIMARY KEY);"
                " DO $$ BEGIN EXECUTE format('COMMENT ON TABLE t IS %L', 'c~'); END $$", "table public.t"),
    "value of an added column": (
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);"
        " ALTER TABLE t ADD v text DEFAULT 'd~'; ALTER TABLE t ALTER v DROP DEFAULT",
        "column v of table public.t",
    ),
    "label": ("DO $$ BEGIN EXECUTE format('CREATE TYPE mood AS ENUM (%L)', 'l~'); END $$",
              "type public.mood"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
async def test_names_and_definitions_without_an_equivalent_are_refused_before_anything_begins(
    what: str, source_server: PostgresServer, dest_server: PostgresServer
) -> None:
    statement, named = REFUSED[what]
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, "WIN1252", "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, "WIN1252", "encoded_dest"))
        WIN1252.run(source, statement)
        with pytest.raises(PgmigError) as caught:
            await check_migration(MigrationId("m"), source, dest, follow=True)
        assert caught.value.kind is ErrorKind.SOURCE_NOT_READY
        assert "without an equivalent in UTF-8" in caught.value.message
        assert named in caught.value.message
        if "VACUUM FULL" in caught.value.hint:
            WIN1252.run(source, "VACUUM FULL t")
            await check_migration(MigrationId("m"), source, dest, follow=True)
        assert rows(dest, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'") == []


async def test_name_without_an_equivalent_that_is_given_later_stops_the_migration(
    source_server: PostgresServer, dest_server: PostgresServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, "WIN1252", "encoded_source"))
        dest = stack.enter_context(encoded(dest_server, "WIN1252", "encoded_dest"))
        services = stack.enter_context(Services(nats_server, tmp_path))
        WIN1252.run(source, "CREATE TABLE t (id int PRIMARY KEY)")
        async with services.session() as session:
            await session.start("m", source, dest, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            rename = "DO $$ BEGIN EXECUTE format('ALTER TABLE t RENAME TO %I', 'bad~'); END $$"
            insert = "DO $$ BEGIN EXECUTE format('INSERT INTO %I VALUES (1)', 'bad~'); END $$"
            WIN1252.run(source, rename, insert)
            view = await until_failed(session, "m")
            assert view.failure is not None
            assert view.failure.kind == ErrorKind.UNTRANSLATABLE, view.failure
            await session.cleanup("m", force=True)


@pytest.mark.parametrize("encoding", ["WIN1252", "SQL_ASCII", "EUC_TW"])
async def test_late_writes_without_an_equivalent_are_found(
    encoding: str, source_server: PostgresServer
) -> None:
    case = Case(encoding, "中" if encoding == "EUC_TW" else "é", STRAY[encoding])
    with encoded(source_server, encoding, "encoded_source") as source:
        case.run(
            source,
            'CREATE TABLE "caf@" (v text)',
            'CREATE PUBLICATION p FOR TABLE "caf@"',
            "SELECT pg_create_logical_replication_slot('late', 'pgoutput')",
            """INSERT INTO "caf@" VALUES ('x~'), ('y')""",
        )
        try:
            async with connection(source, "source") as conn:
                found = await late_writes(conn, "late", ["p"], Lsn(1))
                again = await (await conn.execute("SHOW client_encoding")).fetchone()
        finally:
            case.run(source, "SELECT pg_drop_replication_slot('late')")
    assert found == ((case.sql("public.caf@").decode(), 2),)
    assert again == ("UTF8",)
