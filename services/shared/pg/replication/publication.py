"""Publication and slot on the source: created once, checked afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, Lsn, PgmigError, TableId
from services.shared.pg.catalog.partitions import existing_tables
from services.shared.pg.replication.connection import SlotState, slot_state
from services.shared.pg.replication.truncation import TRUNCATE_SINCE
from services.shared.pg.session.connection import connection, translated
from services.shared.pg.session.sql_files import for_version

_ATTEMPTS = 5


async def ensure_publication(
    conn: AsyncConnection,
    name: str,
    tables: tuple[TableId, ...],
    *,
    inserts_only: bool = False,
    generated: bool = False,
    side: str = "source",
) -> None:
    """Create the publication, or re-create it. It must exist before the slot's consistent point, because
    decoding reads the catalogs as of that time. No tables: an empty publication.

    inserts_only: publish INSERT, and TRUNCATE if the server supports it in publications. Then UPDATE and
    DELETE of a table without replica identity still work on the source. ONLY: child tables are published if
    they are listed. generated: publish stored generated columns (from 18 on).

    A table that was dropped or renamed since it was listed is left out. If another table has its name when
    the snapshot is created, that table is added before its rows are copied:
    services.coordinator.tables.publish. side: of the migration, for messages.
    """
    left = tables
    for _ in range(_ATTEMPTS):
        with translated(f"creating publication {name} on the {side}"):
            try:
                await _replace(conn, name, left, inserts_only=inserts_only, generated=generated)
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                there = await existing_tables(conn, tables)
            else:
                return
        left = tuple(table for table in tables if table in there)
    raise PgmigError(
        ErrorKind.TRANSIENT, f"tables of the {side} were dropped while publication {name} was being created"
    )


async def _replace(
    conn: AsyncConnection, name: str, tables: Sequence[TableId], *, inserts_only: bool, generated: bool
) -> None:
    await conn.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))
    statement = sql.SQL("CREATE PUBLICATION {}").format(sql.Identifier(name))
    if tables:
        listed = sql.SQL(", ").join(
            sql.SQL("ONLY {}").format(sql.Identifier(table.schema, table.name)) for table in tables
        )
        statement = sql.SQL("{} FOR TABLE {}").format(statement, listed)
    if inserts_only:
        kinds = "insert, truncate" if conn.info.server_version >= TRUNCATE_SINCE else "insert"
        statement = sql.SQL("{} WITH (publish = {})").format(statement, sql.Literal(kinds))
    elif generated:
        statement = sql.SQL("{} WITH (publish_generated_columns = stored)").format(statement)
    await conn.execute(statement)


async def publishes(
    conn: AsyncConnection, name: str, tables: Sequence[TableId], *, generated: bool = False
) -> bool:
    """Whether the publication exists and publishes all changes of exactly these tables."""
    query = for_version(_PUBLISHED, conn.info.server_version)
    with translated(f"checking publication {name}"):
        found = await (await conn.execute(query, [name])).fetchall()
    listed = {TableId(schema, table) for schema, table, *_ in found if table is not None}
    complete = all(whole and columns == ("s" if generated else "n") for _, _, whole, columns in found)
    return bool(found) and complete and listed == set(tables)


_PUBLISHED = """
SELECT n.nspname, c.relname, b.pubinsert AND b.pubupdate AND b.pubdelete, {b.pubgencols}
  FROM pg_catalog.pg_publication b
  LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = b.oid
  LEFT JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE b.pubname = %s
"""

_NOT_IN_PUBLICATION = """
SELECT n.nspname, c.relname
  FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS wanted (s, r, place)
  JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.s
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.r
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
                     JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
                    WHERE r.prrelid = c.oid AND b.pubname = %s)
 ORDER BY wanted.place
"""


async def add_to_publication(conn: AsyncConnection, name: str, tables: Sequence[TableId]) -> None:
    """Publish the changes of more tables, from the next transaction on, without their child tables.

    Tables that are already in the publication, or that do not exist now, are skipped: an earlier attempt may
    have been interrupted, and the caller may have listed the tables under an older snapshot.
    """
    statement = sql.SQL("ALTER PUBLICATION {} ADD TABLE ONLY {}")
    with translated(f"adding tables to publication {name} on the source"):
        names = [t.schema for t in tables], [t.name for t in tables]
        lacking = await (await conn.execute(_NOT_IN_PUBLICATION, [*names, name])).fetchall()
        for schema, table in lacking:
            await conn.execute(statement.format(sql.Identifier(name), sql.Identifier(schema, table)))


async def read_slot(uri: str, name: str) -> SlotState | None:
    """The present state of the slot on the source."""
    async with connection(uri, "source") as conn:
        with translated(f"checking replication slot {name}"):
            return await slot_state(conn, name)


async def drop_slot(conn: AsyncConnection, name: str) -> None:
    with translated(f"dropping replication slot {name}"):
        await conn.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", [name])


def check_usable(slot: SlotState | None, name: str, start: Lsn) -> SlotState:
    """Return the slot if streaming from it can continue. Otherwise raise PgmigError(GAP), or SLOT_EXISTS if
    the slot is of another plugin."""
    hint = (
        "changes since then cannot be recovered: run `pgmig-cli cleanup`, then clone again, into an empty "
        "database or with --drop-if-exists"
    )
    if slot is None:
        raise PgmigError(ErrorKind.GAP, f"replication slot {name} is gone from the source", hint, start)
    if slot.lost:
        raise PgmigError(
            ErrorKind.GAP,
            f"replication slot {name} was invalidated: the source removed WAL that it needs",
            f"{hint}, with a larger max_slot_wal_keep_size",
            start,
        )
    if slot.plugin != "pgoutput":
        raise PgmigError(
            ErrorKind.SLOT_EXISTS,
            f"replication slot {name} belongs to plugin {slot.plugin or 'none'}, not to pgoutput",
            "drop that slot if nobody needs it, or choose another migration id",
        )
    return slot
