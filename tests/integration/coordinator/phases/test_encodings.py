"""Databases that are not encoded in UTF-8 arrive byte for byte, or are refused before anything begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ErrorKind, MigrationId, MigrationOptions, PgmigError, Phase
from services.shared.pg.preflight.checks import check_migration
from services.shared.pg.session.encoding import CONVERTED_IN_FULL
from tests.integration.coordinator.tables.test_no_key_tables import flushed
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE


@contextmanager
def encoded(server: PostgresServer, encoding: str, name: str) -> Iterator[str]:
    server.drop_database(name)
    server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'".encode())  # type: ignore[arg-type]
    try:
        yield f"{server.uri(name)}?client_encoding={encoding}"  # which must not mislead anybody
    finally:
        server.drop_database(name)


@pytest.fixture
def both(
    source_server: PostgresServer, dest_server: PostgresServer, request: pytest.FixtureRequest
) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        yield (
            stack.enter_context(encoded(source_server, request.param, "encoded_source")),
            stack.enter_context(encoded(dest_server, request.param, "encoded_dest")),
        )


def rows(uri: str, query: str) -> list[tuple[object, ...]]:
    """What is asked for is bytes as text."""
    with psycopg.connect(uri, client_encoding="UTF8") as conn:
        return conn.execute(query).fetchall()


def run(uri: str, encoding: str, *statements: str) -> None:
    """Statements whose text is Latin-1 bytes, stored as they are."""
    with psycopg.connect(uri, autocommit=True, client_encoding=encoding, options=ASKS_TO_WRITE) as conn:
        for statement in statements:
            conn.execute(statement.encode("latin-1"))


SCHEMA = [
    "CREATE TABLE t (id int PRIMARY KEY, v text DEFAULT 'd\xe9faut', c char(3), a text[])",
    "ALTER TABLE t ADD d date DEFAULT '2024-03-02'",
    "COMMENT ON TABLE t IS 'comment\xe9'",
    "CREATE TABLE full_row (v text)",
    "ALTER TABLE full_row REPLICA IDENTITY FULL",
    "CREATE TYPE mood AS ENUM ('gai\xe9', 'sad')",
    "CREATE TABLE keyed (k text PRIMARY KEY, m mood)",
    "CREATE INDEX keyed_part ON keyed (k) WHERE k <> 'caf\xe9'",
    "INSERT INTO t (id, c, a) SELECT i, 'x\xe9', ARRAY['\xe9', NULL, 'y'] FROM generate_series(1, 300) i",
    "INSERT INTO keyed SELECT 'cl\xe9' || i, 'gai\xe9' FROM generate_series(1, 300) i",
    "INSERT INTO full_row VALUES ('un\xe9'), ('un\xe9'), ('deux')",
]
CHANGES = [
    "INSERT INTO t VALUES (1001, 'plus tard \xe9', '\xe9', ARRAY['\xe9\xe8'])",
    "INSERT INTO t SELECT i, repeat('\xe9', 3000), '\xe9', NULL FROM generate_series(2001, 2100) i",
    "INSERT INTO t VALUES (1002, repeat('\xe9', 6000000), NULL, NULL)",
    "UPDATE t SET v = v || '\xe0' WHERE id % 3 = 0 AND id < 1000",
    "UPDATE keyed SET k = k || '\xe8', m = 'sad' WHERE k LIKE 'cl\xe9%7'",
    "DELETE FROM keyed WHERE k = 'cl\xe95'",
    "UPDATE full_row SET v = 'trois\xe9' WHERE ctid = (SELECT ctid FROM full_row WHERE v = 'un\xe9' LIMIT 1)",
    "DELETE FROM full_row WHERE v = 'un\xe9'",
]
DIGEST = """
    SELECT (SELECT md5(string_agg(md5(t::text::bytea), '' ORDER BY id)) FROM t),
           (SELECT md5(string_agg(md5(k::bytea) || m::text::bytea::text, '' ORDER BY k::bytea)) FROM keyed),
           (SELECT string_agg(v::bytea::text, ',' ORDER BY v) FROM full_row),
           (SELECT obj_description('t'::regclass)::bytea::text),
           (SELECT string_agg(pg_get_expr(adbin, adrelid)::bytea::text, ',') FROM pg_attrdef),
           (SELECT pg_get_indexdef('keyed_part'::regclass)::bytea::text)"""


@pytest.mark.parametrize("both", ["SQL_ASCII", "LATIN1", "WIN1252", "EUC_JP"], indirect=True)
async def test_text_arrives_byte_for_byte(
    both: tuple[str, str], nats_server: NatsServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source, dest = both
    encoding = request.node.callspec.params["both"]
    schema, changes = SCHEMA, CHANGES
    if encoding == "EUC_JP":  # a lone byte is no character there
        schema, changes = ([re_double(one) for one in part] for part in (SCHEMA, CHANGES))
    run(source, encoding, *schema)
    stray = {"PGCLIENTENCODING": "LATIN1", "PGDATESTYLE": "German"}  # libpq sends them with each login
    with Services(nats_server, tmp_path, **stray) as services:
        async with services.session() as session:
            await session.start("m", source, dest, MigrationOptions(follow=True))
            await until_phase(session, "m", Phase.STREAMING)
            assert rows(dest, DIGEST) == rows(source, DIGEST)
            run(source, encoding, *changes)
            await flushed(session, source.partition("?")[0] + "?client_encoding=UTF8")
            assert rows(dest, DIGEST) == rows(source, DIGEST)
            await session.cleanup("m", force=True)


def re_double(statement: str) -> str:
    return "".join("\xa4\xa2" if char > "\x7f" else char for char in statement)


@pytest.mark.parametrize("both", ["SQL_ASCII"], indirect=True)
async def test_names_that_are_not_utf_8_are_refused_before_anything_begins(both: tuple[str, str]) -> None:
    source, dest = both
    run(source, "SQL_ASCII", 'CREATE TABLE t (id int PRIMARY KEY, "caf\xe9" text)')
    with pytest.raises(PgmigError) as caught:
        await check_migration(MigrationId("m"), source, dest, follow=True)
    assert caught.value.kind is ErrorKind.SOURCE_NOT_READY
    assert "names" in caught.value.message and "0xe9" in caught.value.message
    assert rows(dest, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'") == []


async def test_databases_of_different_encodings_are_refused(
    source_server: PostgresServer, dest_db: str
) -> None:
    for encoding in ("LATIN1", "SQL_ASCII"):
        with encoded(source_server, encoding, "encoded_source") as source:
            with pytest.raises(PgmigError) as caught:
                await check_migration(MigrationId("m"), source, dest_db, follow=True)
            assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
            assert encoding in caught.value.message and "UTF8" in caught.value.message


@pytest.mark.parametrize("both", ["MULE_INTERNAL"], indirect=True)
async def test_encoding_that_cannot_be_converted_is_refused(both: tuple[str, str]) -> None:
    with pytest.raises(PgmigError) as caught:
        await check_migration(MigrationId("m"), *both, follow=True)
    assert caught.value.kind is ErrorKind.SOURCE_NOT_READY
    assert "cannot convert to UTF-8" in caught.value.message
    assert "pg_dump" in caught.value.hint


@pytest.mark.parametrize("both", ["EUC_JIS_2004", "WIN1252", "LATIN1", "SQL_ASCII"], indirect=True)
async def test_encodings_need_no_warning(both: tuple[str, str]) -> None:
    found = await check_migration(MigrationId("m"), *both, follow=True)
    assert not any("UTF-8" in text for text in found.warnings)


def test_every_byte_of_encodings_that_are_converted_has_an_equivalent(source_server: PostgresServer) -> None:
    """For those of one byte, whose every byte can be tried."""
    tried = [name for name in sorted(CONVERTED_IN_FULL) if name != "UTF8"]
    with source_server.connect() as conn:
        for name in tried:
            conn.execute("SELECT convert(%s::bytea, %s, 'UTF8')", [bytes(range(1, 256)), name])


pytestmark = pytest.mark.timeout(180)
