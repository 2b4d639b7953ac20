"""Transactions that committed on the old source after the switchover: read from the slot, never applied.

The slot is kept until `cleanup`, so the server can be queried any number of times. The slot must not be in
use, and the session must be connected to the slot's database.

One query decodes a limited number of changes. So the slot is moved past changes that are not late writes:
first to the decision, because the destination has everything before it, and then past each full query that
found nothing. Otherwise such changes could fill every query and hide the late writes after them. The slot is
never moved past a late write, so later queries find it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import Lsn
from services.shared.pg.replication.stream_options import stream_options
from services.shared.pg.session.connection import translated
from services.shared.pg.session.encoding import rows_as_stored

LOOKED_AT_MOST = 100_000
"""Number of changes that one query decodes; it also decodes the rest of the last transaction."""
_ADVANCE_SINCE = 110000

# Messages of pgoutput: C is a commit, whose LSN is its end. I, U, D and T begin with the kind. The table's
# OID comes next; in T it comes after the number of tables and a byte of options.
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
SELECT pg_catalog.convert_to(coalesce(n.nspname || '.' || c.relname, 'a table that is gone'), 'UTF8'),
       pg_catalog.count(*)
  FROM counted t
  LEFT JOIN pg_catalog.pg_class c ON c.oid::bigint = t.oid
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 GROUP BY 1
UNION ALL
SELECT (SELECT pg_catalog.convert_to(lsn::text, 'UTF8') FROM seen ORDER BY lsn DESC LIMIT 1),
       -pg_catalog.count(*)
  FROM seen
 ORDER BY 2"""
# The first row of the result has the position of the last decoded change, and minus the number of decoded
# changes. Texts of the result are bytea in UTF-8: see `rows_as_stored`.

_USUAL: LiteralString = "pg_catalog.pg_replication_slot_advance({slot}, {upto})"
# PostgreSQL 10 does not have pg_replication_slot_advance.
_READING: LiteralString = (
    "pg_catalog.pg_logical_slot_get_binary_changes({slot}, {upto}, NULL, VARIADIC {options})"
)
_ADVANCE: LiteralString = (
    "SELECT pg_catalog.count(*) FROM {moving} WHERE (SELECT confirmed_flush_lsn < {upto}"
    " FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot})"
)


async def late_writes(
    conn: AsyncConnection, slot: str, publications: Sequence[str], after: Lsn
) -> tuple[tuple[str, int], ...] | None:
    """Tables and their numbers of changes (a TRUNCATE counts as one) in transactions that committed after
    `after`. Empty if the slot is gone. None if it is in use, also by another such query: then nothing is
    known."""
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
        looking = _Looking(
            conn, sql.Literal(slot), sql.SQL("{}::text[]").format(sql.Literal(options)), _lsn(str(after))
        )
        try:
            return await looking.look()
        except psycopg.errors.ObjectInUse:
            return None


def _lsn(text: str) -> sql.Composed:
    return sql.SQL("{}::pg_catalog.pg_lsn").format(sql.Literal(text))


@dataclass(frozen=True, slots=True)
class _Looking:
    """Queries of one slot. options: of pgoutput. after: the decision."""

    conn: AsyncConnection
    slot: sql.Composable
    options: sql.Composable
    after: sql.Composable

    async def look(self) -> tuple[tuple[str, int], ...]:
        await self._advance(self.after)
        query = sql.SQL(_LATE).format(
            slot=self.slot, most=sql.Literal(LOOKED_AT_MOST), options=self.options, after=self.after
        )
        while True:
            (last, looked_at), *rows = await rows_as_stored(self.conn, query)
            if rows or -looked_at < LOOKED_AT_MOST:
                return tuple(sorted((name.decode(), int(count)) for name, count in rows))
            await self._advance(_lsn(last.decode()))

    async def _advance(self, upto: sql.Composable) -> None:
        moving = _USUAL if self.conn.info.server_version >= _ADVANCE_SINCE else _READING
        function = sql.SQL(moving).format(slot=self.slot, upto=upto, options=self.options)
        advance = sql.SQL(_ADVANCE).format(moving=function, upto=upto, slot=self.slot)
        await rows_as_stored(self.conn, advance)


def described(found: Sequence[tuple[str, int]]) -> str:
    """The numbers of changes and their tables, for messages."""
    return ", ".join(f"{count} in {name}" for name, count in found)
