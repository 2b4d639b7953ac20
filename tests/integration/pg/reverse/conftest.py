"""A source and a destination with the same tables, and roles without rights on both."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from services.shared.model import MigrationId
from tests.support.servers.postgres import PostgresServer

REVERSE = MigrationId("back").reverse
DDL = """
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE "odd % ""table" (id int PRIMARY KEY, "a ""%s" text);
CREATE TABLE part (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (100) TO (200);
"""


def execute(uri: str, *statements: str) -> None:
    """Each statement is a transaction of its own, also in a database that is read-only by default."""
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("SET default_transaction_read_only = off")
        for statement in statements:
            conn.execute(statement.encode())


@pytest.fixture
def old(source_db: str) -> str:
    """The migration's source, the subscriber of its reverse pipeline."""
    execute(source_db, DDL)
    return source_db


@pytest.fixture
def new(dest_db: str) -> str:
    """The migration's destination, the publisher of its reverse pipeline."""
    execute(dest_db, DDL)
    return dest_db


@contextmanager
def role_without_rights(server: PostgresServer, uri: str) -> Iterator[str]:
    """The URI of the database as a new role, which is dropped at the end."""
    name, database = f"plain_{secrets.token_hex(4)}", urlsplit(uri).path.lstrip("/")
    role = sql.Identifier(name)
    server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'plain'").format(role))
    try:
        yield server.uri(database, name, "plain")
    finally:
        for text in ("REASSIGN OWNED BY {} TO CURRENT_USER", "DROP OWNED BY {}", "DROP ROLE {}"):
            server.execute(sql.SQL(text).format(role), database)
