"""What a server says of itself at one moment."""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import Lsn
from services.shared.model.view.certificate import CertifiedConstraint, CertifiedServer, instant
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql

_NOT_VALID = """
SELECT n.nspname, c.relname, o.conname
  FROM pg_catalog.pg_constraint o
  JOIN pg_catalog.pg_class c ON c.oid = o.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT o.convalidated AND n.nspname !~ '^pg_'
 ORDER BY 1, 2, 3
"""


async def server_now(conn: AsyncConnection, side: str) -> CertifiedServer:
    """For the certificate of a switchover. The host is the one that `conn` is connected to, of those that its
    connection string named. The server must not be a standby."""
    with translated(f"reading what the {side} says of itself"):
        row = await (await conn.execute(load_sql("catalog/sql/server_now.sql"))).fetchone()
    assert row is not None
    database, oid, system, version, number, wal_file, encoding, insert, flush, clock = row
    return CertifiedServer(
        host=conn.info.host,
        port=conn.info.port,
        database=database,
        database_oid=oid,
        system_identifier=system,
        server_version=version,
        server_version_num=number,
        timeline=int(wal_file[:8], 16),  # its name begins with the timeline
        encoding=encoding,
        insert_lsn=Lsn.parse(insert),
        flush_lsn=Lsn.parse(flush),
        clock=instant(clock),
    )


async def clock_us(conn: AsyncConnection) -> int:
    """The server's clock, in microseconds since the Unix epoch."""
    with translated("reading the server's clock"):
        row = await (
            await conn.execute(
                "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8"
            )
        ).fetchone()
    assert row is not None
    return int(row[0])


async def constraints_not_valid(conn: AsyncConnection) -> tuple[CertifiedConstraint, ...]:
    with translated("reading the destination's constraints"):
        return tuple([CertifiedConstraint(*row) async for row in await conn.execute(_NOT_VALID)])
