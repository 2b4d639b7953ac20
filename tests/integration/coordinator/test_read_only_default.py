"""A default of read-only sessions is found before anything begins, with the statement that takes it back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from services.shared.model import ErrorKind
from tests.support.preflight import refusal, run_sql
from tests.support.servers.postgres import PostgresServer

SETTING = "default_transaction_read_only"
ROLE = "reader"


def dbname(uri: str) -> str:
    return urlsplit(uri).path.lstrip("/")


@contextmanager
def superuser(server: PostgresServer, uri: str) -> Iterator[str]:
    """The database as a role of its own, which is dropped afterwards with its settings."""
    server.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD 'reader'").format(sql.Identifier(ROLE)))
    try:
        yield server.uri(dbname(uri), ROLE, ROLE)
    finally:
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute(sql.SQL("SET {} = off").format(sql.Identifier(SETTING)))
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(ROLE)))


def setting(server: PostgresServer, what: sql.Composed) -> None:
    server.execute(sql.SQL("{} SET {} = on").format(what, sql.Identifier(SETTING)))


@pytest.mark.parametrize("in_database", [False, True])
async def test_of_the_destinations_role(
    in_database: bool, source_db: str, dest_db: str, dest_server: PostgresServer
) -> None:
    run_sql(source_db, "CREATE TABLE t (id int PRIMARY KEY)")
    with superuser(dest_server, dest_db) as dest:
        altered = sql.SQL("ALTER ROLE {}").format(sql.Identifier(ROLE))
        remedy = f"ALTER ROLE {ROLE} RESET {SETTING}"
        if in_database:
            altered = sql.SQL("{} IN DATABASE {}").format(altered, sql.Identifier(dbname(dest_db)))
            remedy = f"ALTER ROLE {ROLE} IN DATABASE {dbname(dest_db)} RESET {SETTING}"
        setting(dest_server, altered)
        error = await refusal(source_db, dest)
    assert error.kind is ErrorKind.DESTINATION_NOT_READY
    assert error.hint == remedy


async def test_of_the_destinations_database(
    source_db: str, dest_db: str, dest_server: PostgresServer
) -> None:
    run_sql(source_db, "CREATE TABLE t (id int PRIMARY KEY)")
    setting(dest_server, sql.SQL("ALTER DATABASE {}").format(sql.Identifier(dbname(dest_db))))
    error = await refusal(source_db, dest_db)
    assert error.kind is ErrorKind.DESTINATION_NOT_READY
    assert error.hint == f"ALTER DATABASE {dbname(dest_db)} RESET {SETTING}"


async def test_of_the_connection_string(source_db: str, dest_db: str) -> None:
    run_sql(source_db, "CREATE TABLE t (id int PRIMARY KEY)")
    error = await refusal(source_db, f"{dest_db}?options=-c%20{SETTING}%3Don")
    assert error.kind is ErrorKind.DESTINATION_NOT_READY
    assert "options" in error.hint


async def test_of_the_sources_role(source_db: str, dest_db: str, source_server: PostgresServer) -> None:
    """Without the check, creating the publication fails with SQLSTATE 25006."""
    run_sql(source_db, "CREATE TABLE t (id int PRIMARY KEY)")
    with superuser(source_server, source_db) as source:
        setting(source_server, sql.SQL("ALTER ROLE {}").format(sql.Identifier(ROLE)))
        error = await refusal(source, dest_db)
    assert error.kind is ErrorKind.SOURCE_NOT_READY
    assert error.hint == f"ALTER ROLE {ROLE} RESET {SETTING}"
