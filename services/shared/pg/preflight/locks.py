"""Whether the servers can lock the needed number of objects in one transaction.

On the source, pg_dump locks every table, as do a publication and the switchover. On the destination, the
restore of the schema locks everything that it creates. The size of a server's lock table is fixed at its
start: max_locks_per_transaction for each possible process. Unused shared memory allows some more locks. So a
size that is too small is only a warning here, and an error when the server reports that the table is full.
"""

from __future__ import annotations

from psycopg import AsyncConnection

from services.shared.model import BOOKKEEPING_SCHEMA
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import LOCKS_SETTING, translated

_ROOM = """
    SELECT pg_catalog.current_setting('max_locks_per_transaction')::pg_catalog.int8,
           (SELECT sum(setting::pg_catalog.int8) FROM pg_catalog.pg_settings WHERE name IN
            ('max_connections', 'max_prepared_transactions', 'max_wal_senders', 'max_worker_processes'))
           + (SELECT max(setting::pg_catalog.int8) FROM pg_catalog.pg_settings WHERE name IN
              ('autovacuum_max_workers', 'autovacuum_worker_slots'))"""
_NEEDED = """
    SELECT count(*) FILTER (WHERE c.relkind IN ('r', 'p', 'S')),
           count(*) + 2 * count(*) FILTER (WHERE c.reltoastrelid <> 0)
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'S', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', %(bookkeeping)s)
      AND (n.nspname, c.relname) NOT IN (
          SELECT * FROM unnest(%(schemas)s::pg_catalog.text[], %(names)s::pg_catalog.text[]))"""


async def check(source: AsyncConnection, destination: AsyncConnection, chosen: Chosen) -> list[str]:
    """Returns warnings."""
    missing = {
        "schemas": [table.schema for table in chosen.missing],
        "names": [table.name for table in chosen.missing],
    }
    with translated("counting the objects to lock on the source"):
        cursor = await source.execute(_NEEDED, {**missing, "bookkeeping": BOOKKEEPING_SCHEMA})
        row = await cursor.fetchone()
    assert row is not None
    short = [
        await _shortage(conn, side, needed)
        for conn, side, needed in ((source, "source", row[0]), (destination, "destination", row[1]))
    ]
    return [warning for warning in short if warning]


async def _shortage(conn: AsyncConnection, side: str, needed: int) -> str:
    with translated(f"checking the lock table of the {side}"):
        row = await (await conn.execute(_ROOM)).fetchone()
    assert row is not None
    each, processes = row
    if needed <= each * processes:
        return ""
    return (
        f"{needed} locks are needed in one transaction on the {side}, whose {LOCKS_SETTING} = {each} is "
        f"meant for {each * processes}: set it to {-(-needed // processes)} or more and restart the {side}"
    )
