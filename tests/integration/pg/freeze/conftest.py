"""A source with two tables, roles that freeze it or write to it, and freezes of it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg import conninfo, sql

from services.shared.pg.freeze.source import Freeze
from tests.support.servers.postgres import PostgresServer
from tests.support.switchover.freezing import Opened, administrator


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE SEQUENCE s")
    return source_db


@pytest.fixture
def owner(source: str, source_server: PostgresServer) -> Iterator[str]:
    """The URI of the database's owner: no superuser, and no pg_read_all_stats."""
    name, word = f"owner_{secrets.token_hex(4)}", secrets.token_hex(8)
    database = str(conninfo.conninfo_to_dict(source)["dbname"])
    role = sql.Identifier(name)
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}; GRANT pg_signal_backend TO {}").format(
                role, sql.Literal(word), role
            )
        )
        conn.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), role))
        for table in ("a", "b"):
            conn.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.Identifier(table), role))
    yield source_server.uri(database, name, word)
    with administrator(source) as conn:
        conn.execute(sql.SQL("REASSIGN OWNED BY {} TO postgres").format(role))
        conn.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))


@pytest.fixture
def other_role(source: str, source_server: PostgresServer) -> Iterator[str]:
    """The URI of an ordinary role that overrides the read-only default, as it may."""
    name, word = f"app_{secrets.token_hex(4)}", secrets.token_hex(8)
    role = sql.Identifier(name)
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(word)))
        conn.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = off").format(role))
        conn.execute(sql.SQL("GRANT INSERT ON a TO {}").format(role))
    yield source_server.uri(str(conninfo.conninfo_to_dict(source)["dbname"]), name, word)
    with administrator(source) as conn:
        conn.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Opens freezes, which are closed at the end."""
    freezes: list[Freeze] = []

    async def open_one(uri: str) -> Freeze:
        freezes.append(await Freeze.open(uri))
        return freezes[-1]

    yield open_one
    for freeze in freezes:
        await freeze.close()


@pytest.fixture(params=["superuser", "owner"])
async def freeze(request: pytest.FixtureRequest, source: str, owner: str, opened: Opened) -> Freeze:
    """By both kinds of roles that pgmig may have on the source."""
    return await opened(source if request.param == "superuser" else owner)
