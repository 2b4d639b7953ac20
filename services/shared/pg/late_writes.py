"""What was committed on the old source after the switchover: read from the slot, never applied.

The slot is kept until `cleanup`, so the server can be asked as often as one likes: peeking moves nothing.
It must not be in use, and the session must be on the slot's database.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import Lsn
from services.shared.pg.connection import translated
from services.shared.pg.stream_options import stream_options

LOOKED_AT_MOST = 100_000
"""Changes that one look decodes: enough to say that there are any, and where."""

# pgoutput's messages: C is a commit, whose LSN is its end; I, U, D and T begin with the kind and, T behind
# the number of tables and a byte of options, the table's OID.
_LATE = """
WITH seen AS (
    SELECT xid, lsn, data, pg_catalog.chr(pg_catalog.get_byte(data, 0)) AS kind
      FROM pg_catalog.pg_logical_slot_peek_binary_changes({slot}, NULL, {most}, VARIADIC {options})
), named AS (
    SELECT s.data, s.kind, CASE s.kind WHEN 'T' THEN 6 ELSE 1 END AS at
      FROM seen s
     WHERE s.kind IN ('I', 'U', 'D', 'T')
       AND s.xid::text IN (SELECT c.xid::text FROM seen c WHERE c.kind = 'C' AND c.lsn > {after})
), counted AS (
    SELECT (pg_catalog.get_byte(data, at)::bigint << 24) | (pg_catalog.get_byte(data, at + 1) << 16)
           | (pg_catalog.get_byte(data, at + 2) << 8) | pg_catalog.get_byte(data, at + 3) AS oid
      FROM named
)
SELECT coalesce(n.nspname || '.' || c.relname, 'a table that is gone'), pg_catalog.count(*)
  FROM counted t
  LEFT JOIN pg_catalog.pg_class c ON c.oid::bigint = t.oid
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 GROUP BY 1 ORDER BY 1"""


async def late_writes(
    conn: AsyncConnection, slot: str, publications: Sequence[str], after: Lsn
) -> tuple[tuple[str, int], ...] | None:
    """Tables and numbers of changes, a TRUNCATE as one, of transactions that committed behind `after`.
    Nothing when the slot is gone. None when it is in use, if only by another look: that tells nothing."""
    with translated("looking for writes to the old source"):
        found = await (
            await conn.execute(
                "SELECT active_pid IS NULL FROM pg_catalog.pg_replication_slots WHERE slot_name = %s", [slot]
            )
        ).fetchone()
        if found is None:
            return ()
        if not found[0]:
            return None
        options = list(chain.from_iterable(stream_options(conn.info.server_version, publications).items()))
        query = sql.SQL(_LATE).format(
            slot=sql.Literal(slot),
            most=sql.Literal(LOOKED_AT_MOST),
            options=sql.SQL("{}::text[]").format(sql.Literal(options)),
            after=sql.SQL("{}::pg_catalog.pg_lsn").format(sql.Literal(str(after))),
        )
        try:
            rows = await (await conn.execute(query)).fetchall()
        except psycopg.errors.ObjectInUse:
            return None
    return tuple((str(name), int(count)) for name, count in rows)


def told(found: Sequence[tuple[str, int]]) -> str:
    """For messages."""
    return ", ".join(f"{count} in {name}" for name, count in found)
