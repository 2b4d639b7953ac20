"""The checks before a migration, as tests run them. A refusal must leave nothing behind."""

from __future__ import annotations

from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from services.shared.model import ErrorKind, MigrationId, PgmigError
from services.shared.pg.preflight.checks import check_migration
from tests.support.servers.door import session
from tests.support.servers.postgres import PostgresServer

ID = MigrationId.parse("pre")


def run_sql(uri: str, *statements: LiteralString | sql.Composed) -> None:
    with psycopg.connect(uri, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


def traces(uri: str) -> list[tuple[object, ...]]:
    """Everything that a migration could leave on a server."""
    with session(uri) as conn:
        return [
            *conn.execute("SELECT slot_name FROM pg_replication_slots"),
            *conn.execute("SELECT pubname FROM pg_publication"),
            *conn.execute("SELECT roname FROM pg_replication_origin"),
            *conn.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'"),
            *conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"),
            *conn.execute("SELECT setconfig FROM pg_db_role_setting"),
        ]


async def refusal(source: str, destination: str, *, follow: bool = True) -> PgmigError:
    with pytest.raises(PgmigError) as caught:
        await check_migration(ID, source, destination, follow=follow)
    assert caught.value.hint or caught.value.kind is ErrorKind.TRANSIENT
    return caught.value


def as_role(server: PostgresServer, uri: str, name: str) -> str:
    return server.uri(urlsplit(uri).path.lstrip("/"), name, name)
