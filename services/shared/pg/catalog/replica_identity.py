"""Tables whose old rows the WAL does not identify, and how pgmig handles them.

Once such a table is published for UPDATE or DELETE, these statements fail on the source. So pgmig looks for
such tables before it creates a publication. Depending on the option, it refuses them, sets REPLICA IDENTITY
FULL until cleanup, publishes them for INSERT and TRUNCATE only, or does not publish them. A replica identity
with a generated column that the source cannot send counts as none (see `replica_identity_facts`).

From version 13 on, a partitioned root is published instead of its partitions if it has a primary key that
every new partition gets. If it has none, its partitions are published one by one. Then a partition that is
created later is not replicated, and the switchover is refused while such a partition exists. With insert-only
and copy-only, a single partition without an identity determines how its root is published.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from services.shared.pg.catalog.replica_identity_facts import (
    NO_GENERATED_COLUMNS,
    PUBLISH_GENERATED_SINCE,
    GeneratedColumns,
    Root,
    generated_columns,
    roots_among,
)
from services.shared.pg.catalog.server import listing
from services.shared.pg.catalog.tables import lacking_identity, list_tables, publication_tables
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import translated

LOCK_TIMEOUT = "5s"
"""Maximum time that ALTER TABLE waits for writers, because other writers queue behind it."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is replicated: tables with all changes, tables with INSERT and TRUNCATE only, and tables with no
    changes after the copy. altered: tables that need REPLICA IDENTITY FULL first, with their present
    identity. divided: roots of which only the present partitions are published. sends_generated: stored
    generated columns are published, because a replica identity contains one."""

    whole: tuple[TableId, ...]
    inserts_only: tuple[TableId, ...] = ()
    copied_only: tuple[TableId, ...] = ()
    altered: tuple[IdentityBefore, ...] = ()
    divided: tuple[TableId, ...] = ()
    sends_generated: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the event log."""
        reported: dict[str, Sequence[TableId]] = {
            "REPLICA IDENTITY FULL on the source until cleanup": [one.table for one in self.altered],
            "UPDATE and DELETE are not replicated (no replica identity)": self.inserts_only,
            "copied once, later changes are not replicated (no replica identity)": self.copied_only,
            "partitions that are created from now on are not replicated, and the switchover is refused while "
            "there is one (the partitioned table has no primary key)": self.divided,
        }
        return tuple(f"{what}: {listing(tables)}" for what, tables in reported.items() if tables)


@dataclass(frozen=True, slots=True)
class _Lacking:
    """Tables without a usable identity. generated: those whose identity contains a column that is not sent.
    never_full: those that cannot have REPLICA IDENTITY FULL."""

    tables: tuple[TableId, ...]
    generated: tuple[TableId, ...]
    never_full: tuple[TableId, ...]


async def choose_published(
    conn: AsyncConnection, option: NoKeyTables, chosen: Chosen = EVERYTHING
) -> Published:
    """Decide how each table of the source is published. Raises NO_REPLICA_IDENTITY with the list of tables if
    `option` does not allow them."""
    tables = await list_tables(conn, chosen)
    identities = {table.table: table.replica_identity for table in tables if table.logged}
    generated, version = await generated_columns(conn), conn.info.server_version
    lacking = _lacking(lacking_identity(tables), identities, generated, version)
    published = await publication_tables(conn, chosen)
    roots = await roots_among(conn, published)
    carriers: set[TableId] = set()
    altered: tuple[IdentityBefore, ...] = ()
    if lacking.tables and option is NoKeyTables.REFUSE:
        raise _refused(lacking)
    if lacking.tables and option is NoKeyTables.IDENTITY_FULL:
        if lacking.never_full:
            raise _never_full(lacking.never_full)
        altered = await _as_they_are(conn, lacking.tables, identities)
    elif lacking.tables:
        carriers = _carriers(published, lacking.tables, roots)
    whole, divided = _divided([table for table in published if table not in carriers], roots)
    rest = tuple(table for table in published if table in carriers)
    inserts = option is NoKeyTables.INSERT_ONLY
    return Published(
        whole,
        inserts_only=rest if inserts else (),
        copied_only=() if inserts else rest,
        altered=altered,
        divided=divided,
        sends_generated=version >= PUBLISH_GENERATED_SINCE
        and _needs_generated(whole, roots, {one.table for one in altered}, generated),
    )


async def never_identified(
    conn: AsyncConnection, wanted: Collection[TableId], *, sends_generated: bool
) -> tuple[TableId, ...]:
    """Those of `wanted` whose UPDATE and DELETE would fail on the source or could not be replicated.
    sends_generated: whether the publication sends stored generated columns."""
    tables = tuple(table for table in await list_tables(conn) if table.table in wanted)
    identities = {table.table: table.replica_identity for table in tables}
    generated, version = await generated_columns(conn), conn.info.server_version
    lacking = set(_lacking(lacking_identity(tables), identities, generated, version).tables)
    if version >= PUBLISH_GENERATED_SINCE and not sends_generated:
        lacking |= {
            table for table in identities if generated.get(table, NO_GENERATED_COLUMNS).identity_stored
        }
    return tuple(sorted(lacking))


def _needs_generated(
    published: Sequence[TableId],
    roots: dict[TableId, Root],
    altered: set[TableId],
    generated: dict[TableId, GeneratedColumns],
) -> bool:
    """Whether the identity of a published table contains a stored generated column, or will contain one."""
    tables = {leaf for t in published for leaf in (t, *(roots[t].leaves if t in roots else ()))}
    return any(generated[table].identity_stored or table in altered for table in tables if table in generated)


def _lacking(
    without: Sequence[TableId],
    identities: dict[TableId, ReplicaIdentity],
    generated: dict[TableId, GeneratedColumns],
    version: int,
) -> _Lacking:
    of = {table: generated.get(table, NO_GENERATED_COLUMNS) for table in identities}
    hidden = [
        table
        for table, identity in identities.items()
        if table not in without and of[table].hide_identity(identity, version)
    ]
    tables = sorted({*without, *hidden})
    never = [table for table in tables if of[table].rule_out_full(version)]
    return _Lacking(tuple(tables), tuple(hidden), tuple(never))


def _refused(lacking: _Lacking) -> PgmigError:
    without = [table for table in lacking.tables if table not in lacking.generated]
    reported = {
        "tables have no replica identity, so UPDATE and DELETE cannot be replicated": without,
        "tables have a generated column in their replica identity that the source does not send, so UPDATE "
        "and DELETE cannot be replicated": lacking.generated,
    }
    full = not lacking.never_full
    ways = "identity-full, insert-only or copy-only" if full else "insert-only or copy-only"
    by_hand = "ALTER TABLE ... REPLICA IDENTITY FULL (or USING INDEX a unique index)"
    return PgmigError(
        ErrorKind.NO_REPLICA_IDENTITY,
        "; ".join(f"{what}: {listing(tables)}" for what, tables in reported.items() if tables),
        f"add a primary key without generated columns, or {by_hand if full else _BY_INDEX}; "
        f"or choose what becomes of them with --no-key-tables={ways}",
    )


_BY_INDEX = "ALTER TABLE ... REPLICA IDENTITY USING INDEX a unique index"


def _never_full(tables: Sequence[TableId]) -> PgmigError:
    return PgmigError(
        ErrorKind.NO_REPLICA_IDENTITY,
        "PostgreSQL refuses UPDATE and DELETE of a published table with REPLICA IDENTITY FULL and a virtual "
        f"generated column, as these have or would have: {listing(tables)}",
        f"add a primary key, or {_BY_INDEX}; or choose what becomes of them with "
        "--no-key-tables=insert-only or copy-only",
    )


def _carriers(
    published: Sequence[TableId], lacking: Sequence[TableId], roots: dict[TableId, Root]
) -> set[TableId]:
    """The published tables through which a table without an identity is published: the table itself, or its
    root."""
    return {
        table
        for table in published
        if not {table, *(roots[table].leaves if table in roots else ())}.isdisjoint(lacking)
    }


def _divided(
    published: Sequence[TableId], roots: dict[TableId, Root]
) -> tuple[tuple[TableId, ...], tuple[TableId, ...]]:
    """The tables to publish, where roots without a key are replaced by their partitions; and those roots."""
    divided = tuple(table for table in published if table in roots and not roots[table].keyed)
    whole = {table for table in published if table not in divided}
    whole |= {leaf for table in divided for leaf in roots[table].leaves}
    return tuple(sorted(whole)), divided


async def uncovered(
    conn: AsyncConnection, tables: Sequence[TableId], known: set[TableId]
) -> tuple[TableId, ...]:
    """Those of `tables`, on the source, that are not in `known`. A partitioned table counts as known if all
    of its partitions are. Otherwise its unknown partitions are returned."""
    unknown = [table for table in tables if table not in known]
    roots = await roots_among(conn, unknown)
    found = {leaf for table in unknown for leaf in (roots[table].leaves if table in roots else (table,))}
    return tuple(sorted(found - known))


_INDEX = """
SELECT n.nspname, c.relname, x.relname
  FROM unnest(%s::text[], %s::text[]) t (s, n)
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.s
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.n
  JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisreplident
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
 WHERE c.relreplident = 'i'
"""


async def _as_they_are(
    conn: AsyncConnection, tables: Sequence[TableId], identities: dict[TableId, ReplicaIdentity]
) -> tuple[IdentityBefore, ...]:
    """The present identities, which are restored at the end."""
    with translated("checking the source's replica identities"):
        names = [table.schema for table in tables], [table.name for table in tables]
        cursor = await conn.execute(_INDEX, names)
        indexes = {TableId(schema, name): index async for schema, name, index in cursor}
    return tuple(IdentityBefore(table, identities[table], indexes.get(table, "")) for table in tables)


async def set_full(conn: AsyncConnection, tables: Sequence[TableId]) -> None:
    """Set REPLICA IDENTITY FULL on the tables that do not have it. Raises TRANSIENT if a lock prevents it."""
    for table in tables:
        if await _identity(conn, table) is not ReplicaIdentity.FULL:
            await _alter(conn, table, sql.SQL("FULL"))


async def put_back(conn: AsyncConnection, before: Sequence[IdentityBefore]) -> list[str]:
    """Restore the identity of altered tables. Returns a line for each. Tables that were dropped, or whose
    identity was changed since, are left unchanged. If the identity was USING INDEX and there was or is no
    such index, the identity means NOTHING."""
    lines = []
    for one in before:
        if await _identity(conn, one.table) is not ReplicaIdentity.FULL:
            continue
        kind = "DEFAULT" if one.identity is ReplicaIdentity.DEFAULT else "NOTHING"
        if not await _use_index(conn, one):
            await _alter(conn, one.table, sql.SQL(kind))
        lines.append(f"REPLICA IDENTITY FULL of {one.table}, which has its earlier one again")
    return lines


async def use_indexes(conn: AsyncConnection, before: Sequence[IdentityBefore]) -> None:
    """On the destination, set as identities the indexes that were identities on the source. Indexes are built
    last."""
    for one in before:
        if await _identity(conn, one.table) is ReplicaIdentity.NOTHING:
            await _use_index(conn, one)


async def _use_index(conn: AsyncConnection, before: IdentityBefore) -> bool:
    """Set the former identity index as the identity again. Returns False if the table no longer has that
    index."""
    if not before.index:
        return False
    with translated(f"checking the indexes of {before.table}"):
        index = sql.Identifier(before.table.schema, before.index).as_string(conn)
        query = (
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indexrelid = pg_catalog.to_regclass(%s))"
        )
        found = await (await conn.execute(query, [index])).fetchone()
    if found is None or not found[0]:
        return False
    await _alter(conn, before.table, sql.SQL("USING INDEX {}").format(sql.Identifier(before.index)))
    return True


async def _identity(conn: AsyncConnection, table: TableId) -> ReplicaIdentity | None:
    with translated(f"checking the replica identity of {table}"):
        cursor = await conn.execute(
            "SELECT c.relreplident::text FROM pg_catalog.pg_class c"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s",
            [table.schema, table.name],
        )
        row = await cursor.fetchone()
    return ReplicaIdentity(row[0]) if row else None


async def _alter(conn: AsyncConnection, table: TableId, kind: sql.Composable) -> None:
    statement = sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(
        sql.Identifier(table.schema, table.name), kind
    )
    with translated(f"setting the replica identity of {table}"):
        async with conn.transaction():
            await conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))
            await conn.execute(statement)
