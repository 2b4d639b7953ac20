"""Tables whose old rows the WAL does not tell, and what is done about them.

Once such a table is published with UPDATE or DELETE, those statements fail on the source. So it is
found before a publication stands, and then refused, given REPLICA IDENTITY FULL (which is put back
in the end), published for INSERT and TRUNCATE alone, or not published at all. From version 13 on a
partitioned root is published instead of its partitions: one partition without an identity decides
for all of it, unless it is given one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from services.shared.model import (
    ErrorKind,
    IdentityBefore,
    NoKeyTables,
    PgmigError,
    ReplicaIdentity,
    TableId,
)
from services.shared.pg.catalog import ROOTS_SINCE, lacking_identity, list_tables, publication_tables
from services.shared.pg.choice import EVERYTHING, Chosen
from services.shared.pg.connection import translated
from services.shared.pg.preflight_server import listing

LOCK_TIMEOUT = "5s"
"""ALTER TABLE waits no longer than this for writers, who would queue up behind it."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is followed, by how much: all changes, INSERT and TRUNCATE alone, or nothing after the
    copy. altered: tables that need REPLICA IDENTITY FULL first, with the identity they have."""

    whole: tuple[TableId, ...]
    inserts_only: tuple[TableId, ...] = ()
    copied_only: tuple[TableId, ...] = ()
    altered: tuple[IdentityBefore, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the timeline."""
        told: dict[str, Sequence[TableId]] = {
            "REPLICA IDENTITY FULL on the source until cleanup": [one.table for one in self.altered],
            "UPDATE and DELETE are not followed (no replica identity)": self.inserts_only,
            "copied once, later changes are not followed (no replica identity)": self.copied_only,
        }
        return tuple(f"{what}: {listing(tables)}" for what, tables in told.items() if tables)


async def choose_published(
    conn: AsyncConnection, option: NoKeyTables, chosen: Chosen = EVERYTHING
) -> Published:
    """Divide the source's tables. Raises NO_REPLICA_IDENTITY with the list where that is refused."""
    tables = await list_tables(conn, chosen)
    lacking = lacking_identity(tables)
    published = await publication_tables(conn, chosen)
    if not lacking:
        return Published(published)
    if option is NoKeyTables.REFUSE:
        raise _refused(lacking)
    if option is NoKeyTables.IDENTITY_FULL:
        found = {table.table: table.replica_identity for table in tables}
        return Published(published, altered=tuple(IdentityBefore(t, found[t]) for t in lacking))
    carriers = await _carriers(conn, published, lacking)
    whole = tuple(table for table in published if table not in carriers)
    apart = tuple(table for table in published if table in carriers)
    if option is NoKeyTables.INSERT_ONLY:
        return Published(whole, inserts_only=apart)
    return Published(whole, copied_only=apart)


def _refused(lacking: Sequence[TableId]) -> PgmigError:
    return PgmigError(
        ErrorKind.NO_REPLICA_IDENTITY,
        f"tables have no replica identity, so UPDATE and DELETE cannot follow: {listing(lacking)}",
        "add a primary key, or ALTER TABLE ... REPLICA IDENTITY FULL (or USING INDEX a unique index); "
        "or choose what becomes of them with --no-key-tables=identity-full, insert-only or copy-only",
    )


async def _carriers(
    conn: AsyncConnection, published: Sequence[TableId], lacking: Sequence[TableId]
) -> set[TableId]:
    """Of the published tables those that bring a lacking one along: itself, or its root."""
    if conn.info.server_version < ROOTS_SINCE:
        return set(lacking) & set(published)
    with translated("looking for the roots of the source's partitions"):
        cursor = await conn.execute(
            "SELECT rn.nspname, r.relname FROM unnest(%s::text[], %s::text[]) t (s, n)"
            " JOIN pg_catalog.pg_namespace n ON n.nspname = t.s"
            " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.n"
            " JOIN pg_catalog.pg_class r"
            "   ON r.oid = c.oid OR r.oid = pg_catalog.pg_partition_root(c.oid)"
            " JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace",
            [[t.schema for t in lacking], [t.name for t in lacking]],
        )
        found = {TableId(schema, name) async for schema, name in cursor}
    return found & set(published)


async def set_full(conn: AsyncConnection, tables: Sequence[TableId]) -> None:
    """REPLICA IDENTITY FULL for those that have not got it. Raises TRANSIENT behind a lock."""
    for table in tables:
        if await _identity(conn, table) is not ReplicaIdentity.FULL:
            await _alter(conn, table, "FULL")


async def put_back(conn: AsyncConnection, before: Sequence[IdentityBefore]) -> list[str]:
    """Give altered tables their identity again; returns a line for each. One that was dropped, or
    that somebody has given another identity since, is left alone. An index that no longer served
    as the identity when it was altered is not named again: that is what NOTHING means."""
    lines = []
    for one in before:
        if await _identity(conn, one.table) is not ReplicaIdentity.FULL:
            continue
        kind = "DEFAULT" if one.identity is ReplicaIdentity.DEFAULT else "NOTHING"
        await _alter(conn, one.table, kind)
        lines.append(f"REPLICA IDENTITY FULL of {one.table}, which has {kind} again")
    return lines


async def _identity(conn: AsyncConnection, table: TableId) -> ReplicaIdentity | None:
    with translated(f"looking at the replica identity of {table}"):
        cursor = await conn.execute(
            "SELECT c.relreplident::text FROM pg_catalog.pg_class c"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s",
            [table.schema, table.name],
        )
        row = await cursor.fetchone()
    return ReplicaIdentity(row[0]) if row else None


async def _alter(conn: AsyncConnection, table: TableId, kind: str) -> None:
    statement = sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(
        sql.Identifier(table.schema, table.name), sql.SQL(kind)
    )
    with translated(f"setting the replica identity of {table}"):
        async with conn.transaction():
            await conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))
            await conn.execute(statement)
