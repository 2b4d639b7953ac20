"""Facts about a server, read once by the preflight checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection

from services.shared.model import DatabaseIdentity, ErrorKind, PgmigError
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql

NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The columns of catalog/sql/server.sql, in order."""

    version_num: int
    dbname: str
    database_oid: int
    system_identifier: str
    encoding: str
    collate: str
    ctype: str
    role: str
    superuser: bool
    replication: bool
    in_recovery: bool
    read_only: bool
    read_only_from: str
    may_create: bool
    owns_database: bool

    @property
    def major(self) -> int:
        return self.version_num // 10000

    @property
    def identity(self) -> DatabaseIdentity:
        return DatabaseIdentity(self.system_identifier, self.database_oid)


async def read_server(conn: AsyncConnection, side: str) -> ServerFacts:
    """Facts about the connected database. Raises SOURCE_NOT_READY or DESTINATION_NOT_READY for a standby,
    which cannot be written to."""
    with translated(f"checking the {side}"):
        row = await (await conn.execute(load_sql("catalog/sql/server.sql"))).fetchone()
    assert row is not None
    facts = ServerFacts(*row)
    if facts.in_recovery:
        kind = ErrorKind.SOURCE_NOT_READY if side == "source" else ErrorKind.DESTINATION_NOT_READY
        raise PgmigError(kind, f"the {side} is a standby", "connect to the primary server")
    return facts


async def identity_of(conn: AsyncConnection, database: str, side: str) -> DatabaseIdentity | None:
    """The identity of the database with this name, which need not accept connections. None if the server has
    no such database. conn: to any database of the server."""
    facts = await read_server(conn, side)
    with translated(f"checking the {side}"):
        row = await (
            await conn.execute(
                "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = %s", [database]
            )
        ).fetchone()
    return DatabaseIdentity(facts.system_identifier, row[0]) if row else None


def listing(names: Sequence[object], at_most: int = NAMED_AT_MOST) -> str:
    """The first names, and the number of further ones."""
    shown = ", ".join(str(name) for name in names[:at_most])
    more = len(names) - at_most
    return f"{shown} and {more} more" if more > 0 else shown
