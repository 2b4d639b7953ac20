"""A database that accepts no connections: the only barrier that applies to every role.

`default_transaction_read_only` is a default that any session may change. CONNECTION LIMIT and REVOKE do not
apply to superusers, and locks end with their session. `ALTER DATABASE ... ALLOW_CONNECTIONS false` refuses
all new sessions, including those of superusers, subscriptions and extensions' workers, until it is reset. The
database's owner can set it, but only from another database of the server (the "way in"). Existing sessions
are not affected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.freeze.sessions import end_all
from services.shared.pg.session.connection import connect, connection, translated
from services.shared.pg.session.uri import endpoint

USUAL = ("postgres", "template1")
_TRIED_AT_MOST = 5


async def writable_connection(uri: str, database: str = "", side: str = "source") -> AsyncConnection:
    """A session that may write although its database is read-only by default.

    database: a database to connect to instead of the URI's. side: "source" or "destination", for messages.
    """
    conn = await connect(uri, side, database=database)
    try:
        with translated(f"opening a session on the {side}"):
            await conn.execute("SET default_transaction_read_only = off")
            await conn.execute("SET synchronous_commit = local")  # standbys need not have the sentinel
            # Servers before 18 refuse parallel workers while their database accepts no connections.
            await conn.execute("SET max_parallel_workers_per_gather = 0")
    except BaseException:
        await conn.close()
        raise
    return conn


async def way_in(conn: AsyncConnection, uri: str, side: str = "source") -> str:
    """The name of another database that our role can connect to. Raises PERMISSION. If a retry may solve
    the last connection's error, as for a connection limit, raises that error."""
    failure: PgmigError | None = None
    with translated(f"looking for another database of the {side}"):
        rows = await (
            await conn.execute(
                "SELECT datname, current_database() FROM pg_catalog.pg_database"
                " WHERE datallowconn AND datname <> current_database()"
                " AND pg_catalog.has_database_privilege(oid, 'CONNECT')"
                " ORDER BY datname <> 'postgres', datname = 'template1', datname LIMIT %s",
                [_TRIED_AT_MOST],
            )
        ).fetchall()
    for name, _ in rows:
        try:
            async with connection(uri, side, database=name):
                return str(name)
        except PgmigError as exc:
            failure = exc if exc.policy.retry else failure
    if failure is not None:
        raise failure
    raise PgmigError(
        ErrorKind.PERMISSION,
        f"our role can connect to no other database of the {side}; the switchover closes the migrated one "
        "to all connections, which PostgreSQL allows from another database only",
        "let it connect to database postgres too (GRANT CONNECT, pg_hba.conf, the password file)",
    )


async def beside(uri: str, door: str, side: str = "source") -> AsyncConnection:
    """A session on another database of the same server. door: the name of the database to try first."""
    failure: PgmigError | None = None
    for name in dict.fromkeys([door, *USUAL]):
        if name:
            try:
                return await writable_connection(uri, name, side)
            except PgmigError as exc:
                failure = failure or exc
    assert failure is not None
    raise failure


async def is_open(conn: AsyncConnection, database: str, side: str = "source") -> bool:
    """Whether `database` accepts connections. conn: to any database of the server. side: for messages."""
    with translated(f"checking whether the {side} accepts connections"):
        row = await (
            await conn.execute(
                "SELECT datallowconn FROM pg_catalog.pg_database WHERE datname = %s", [database]
            )
        ).fetchone()
    return row is not None and bool(row[0])


async def set_open(conn: AsyncConnection, database: str, *, accepts: bool, side: str = "source") -> None:
    """Allow or refuse connections. conn: to another database, unless connections are allowed."""
    with translated(f"setting whether database {database} of the {side} accepts connections"):
        await conn.execute(
            sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}").format(
                sql.Identifier(database), sql.SQL("true" if accepts else "false")
            )
        )


async def close_database(conn: AsyncConnection, database: str, side: str = "source") -> str:
    """Refuse connections. Returns the version of the database's row in the catalog. conn: to another
    database."""
    with translated(f"closing database {database} of the {side}"):
        async with conn.transaction():
            await set_open(conn, database, accepts=False, side=side)
            return await row_version(conn, database, side)


async def row_version(conn: AsyncConnection, database: str, side: str = "source") -> str:
    """Changes with each ALTER DATABASE that sets a property. If somebody opens a closed database and closes
    it again, the version shows that."""
    with translated(f"checking whether the {side} accepts connections"):
        row = await (
            await conn.execute("SELECT xmin::text FROM pg_catalog.pg_database WHERE datname = %s", [database])
        ).fetchone()
    return str(row[0]) if row is not None else ""


@asynccontextmanager
async def inside(
    uri: str, database: str, door: str, deadline: float, side: str = "source"
) -> AsyncIterator[AsyncConnection]:
    """A writable session, even if the database accepts no connections.

    In that case the database is opened for the moment in which pgmig connects, and then closed again.
    Sessions that connected during that time are terminated before the block begins.
    """
    try:
        conn = await writable_connection(uri, side=side)
    except PgmigError as exc:
        if exc.kind is not ErrorKind.DATABASE_CLOSED:
            raise
    else:
        try:
            yield conn
        finally:
            await conn.close()
        return
    other = await beside(uri, door, side)
    database = database or endpoint(uri).dbname
    try:
        await set_open(other, database, accepts=True, side=side)
        try:
            conn = await writable_connection(uri, side=side)
        finally:
            await set_open(other, database, accepts=False, side=side)
        try:
            await end_all(other, database, [conn.info.backend_pid], deadline)
            yield conn
        finally:
            await conn.close()
    finally:
        await other.close()
