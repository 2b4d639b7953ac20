"""Properties of a database without an equivalent in UTF-8 are reported, and the others are set."""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest

from services.shared.pg.schema.database_settings import read_database_settings, write_database_settings
from services.shared.pg.session.connection import connection
from tests.integration.coordinator.phases.test_encodings import encoded, rows
from tests.support.servers.postgres import PostgresServer

STRAY = {"SQL_ASCII": "e9", "WIN1252": "81"}
SETTINGS = """SELECT unnest(setconfig) FROM pg_db_role_setting
 WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1"""
PRIVILEGES = "SELECT has_database_privilege('pg_monitor', current_database(), 'CREATE')"


def run(uri: str, encoding: str, *statements: str) -> None:
    """In a statement, ~ is the stray byte, and DB is the database."""
    stray = bytes.fromhex(STRAY[encoding]).decode("latin-1")
    name = uri.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(uri, autocommit=True, client_encoding=encoding) as conn:
        for statement in statements:
            conn.execute(statement.replace("~", stray).replace("DB", name).encode("latin-1"))


@pytest.mark.parametrize("encoding", STRAY)
async def test_comment_and_settings_without_an_equivalent_are_reported(
    encoding: str, source_server: PostgresServer, dest_server: PostgresServer
) -> None:
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, encoding, "settings_source"))
        dest = stack.enter_context(encoded(dest_server, encoding, "settings_dest"))
        run(
            source,
            encoding,
            "COMMENT ON DATABASE DB IS 'c~'",
            "ALTER DATABASE DB SET a.first = 'x'",
            "ALTER DATABASE DB SET a.stray = 'v~'",
            "ALTER DATABASE DB SET work_mem = '5MB'",
            "GRANT CREATE ON DATABASE DB TO pg_monitor",
        )
        async with connection(source, "source") as conn:
            wanted = await read_database_settings(conn)
        told = await write_database_settings(dest, wanted, privileges=True)
        assert rows(dest, SETTINGS) == [("a.first=x",), ("work_mem=5MB",)]
        assert rows(dest, PRIVILEGES) == [(True,)]
    assert len(told) == 2
    assert told[0].startswith("setting a.stray has no equivalent in UTF-8")
    assert told[1].startswith("the database's comment has no equivalent in UTF-8")


async def test_role_without_an_equivalent_is_reported_and_matters_to_nothing_else(
    source_server: PostgresServer, dest_server: PostgresServer
) -> None:
    with ExitStack() as stack:
        source = stack.enter_context(encoded(source_server, "WIN1252", "settings_source"))
        dest = stack.enter_context(encoded(dest_server, "WIN1252", "settings_dest"))
        for uri in (source, dest):
            run(uri, "WIN1252", 'CREATE ROLE "r~"')
            stack.callback(run, uri, "WIN1252", 'DROP OWNED BY "r~"', 'DROP ROLE "r~"')
        run(
            source,
            "WIN1252",
            'GRANT CREATE ON DATABASE DB TO "r~"',
            "ALTER ROLE \"r~\" IN DATABASE DB SET work_mem = '6MB'",
            "ALTER DATABASE DB SET work_mem = '5MB'",
            "COMMENT ON DATABASE DB IS 'plain'",
        )
        async with connection(source, "source") as conn:
            wanted = await read_database_settings(conn)
        told = await write_database_settings(dest, wanted, privileges=True)
        assert rows(dest, SETTINGS) == [("work_mem=5MB",)]
        assert wanted.comment == "plain"
    assert [sentence.partition(" has no ")[0] for sentence in told] == [
        "setting work_mem of role r\\x81",
        "a role with privileges on the database",
    ]


async def test_setting_that_is_not_utf_8_in_a_database_in_utf8_is_reported(
    source_server: PostgresServer, dest_db: str
) -> None:
    with (
        encoded(source_server, "WIN1252", "settings_other") as other,
        encoded(source_server, "UTF8", "settings_source") as source,
    ):
        run(other, "WIN1252", "ALTER DATABASE settings_source SET a.stray = 'v~'")
        async with connection(source, "source") as conn:
            wanted = await read_database_settings(conn)
        told = await write_database_settings(dest_db, wanted, privileges=True)
    assert [sentence.partition(" has no ")[0] for sentence in told] == ["setting a.stray"]
