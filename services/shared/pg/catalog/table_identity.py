"""Identities of tables: read from the source's catalogs, and stored on the destination.

`pgmig.source_table` has a row for each table that is copied. The row is written in the transaction that gives
the table its copy plan. The applier compares Relation messages with it, and the coordinator compares the
source's catalogs. Its column `destination` is the OID of the table into which the rows are copied. If someone
drops and re-creates that table, the rows are lost, and the change stream does not bring them back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from psycopg import AsyncConnection, sql

from services.shared.model import BOOKKEEPING_SCHEMA, ColumnIdentity, PipelineId, TableId, TableIdentity
from services.shared.pg.bookkeeping.schema import KEEPING_BOOKS, book, books_exist
from services.shared.pg.catalog.tables import under_snapshot
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql_for

KEPT_SIGNATURES = 8
_FACTS = 7
"""Number of values that are stored for a `TableIdentity`, in addition to its name."""


@dataclass(frozen=True, slots=True)
class KnownTable:
    """A table as recorded in `pgmig.source_table`. signatures: of the Relation messages that may describe the
    table, the newest last. A message from before an ALTER TABLE may still be in the stream after it. root:
    the partitioned table whose destination table has the rows; None: the rows are in a table of the same
    name. division: how that table is partitioned there."""

    identity: TableIdentity
    signatures: tuple[str, ...]
    root: TableId | None = None
    division: str = ""


async def read_identities(conn: AsyncConnection, pipeline: PipelineId) -> dict[TableId, TableIdentity]:
    """All tables of the source, partitioned tables included, in the transaction's snapshot."""
    with translated("reading the source's tables"):
        cursor = await conn.execute(
            load_sql_for("catalog/sql/table_identity.sql", conn.info.server_version),
            {
                "bookkeeping": BOOKKEEPING_SCHEMA,
                "publications": [pipeline.publication, pipeline.inserts_publication],
            },
        )
        found = [_identity(row) async for row in cursor]
    return {one.table: one for one in found}


async def read_identities_under(
    conn: AsyncConnection, pipeline: PipelineId, snapshot: str
) -> dict[TableId, TableIdentity]:
    """`read_identities` as of an exported snapshot. Raises SNAPSHOT_LOST."""
    async with under_snapshot(conn, snapshot):
        return await read_identities(conn, pipeline)


def _identity(row: Sequence[Any]) -> TableIdentity:
    schema, name, oid, kind, file, persistence, way, generated, columns = row
    return TableIdentity(
        TableId(schema, name),
        oid,
        kind,
        file,
        persistence,
        way or "",
        generated,
        tuple(ColumnIdentity(*column) for column in columns),
    )


async def note_tables(conn: AsyncConnection, pipeline: PipelineId, tables: Iterable[KnownTable]) -> None:
    """Write or replace rows within the caller's transaction."""
    upsert = sql.SQL(
        "INSERT INTO {} (pipeline, schema_name, table_name, identity, signatures)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (pipeline, schema_name, table_name)"
        " DO UPDATE SET identity = excluded.identity, signatures = excluded.signatures"
    ).format(book("source_table"))
    with translated(KEEPING_BOOKS):
        async with conn.cursor() as cursor:
            await cursor.executemany(upsert, [_row(pipeline, table) for table in tables])


def _row(pipeline: PipelineId, known: KnownTable) -> tuple[object, ...]:
    one = known.identity
    columns = [astuple(column) for column in one.columns]
    root = (known.root.schema, known.root.name, known.division) if known.root is not None else None
    facts = [one.oid, one.kind, one.file, one.persistence, one.published, one.sends_generated, columns]
    text = json.dumps([*facts, root], separators=(",", ":"))
    return str(pipeline), one.table.schema, one.table.name, text, list(known.signatures[-KEPT_SIGNATURES:])


async def note_destinations(
    conn: AsyncConnection, pipeline: PipelineId, places: Mapping[TableId, TableId]
) -> None:
    """Record which destination table the rows of each source table are copied into, as it is now, within the
    caller's transaction. places: that table's name, by the name of the source table, which is already
    recorded."""
    query = sql.SQL(
        "UPDATE {} AS known SET destination = c.oid"
        " FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS place (s, t, at_s, at_t)"
        " JOIN pg_catalog.pg_namespace n ON n.nspname = place.at_s"
        " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = place.at_t"
        " WHERE known.pipeline = %s AND known.schema_name = place.s AND known.table_name = place.t"
    ).format(book("source_table"))
    with translated(KEEPING_BOOKS):
        await conn.execute(query, [*_columns(places), str(pipeline)])


async def replaced_destinations(
    conn: AsyncConnection, pipeline: PipelineId, places: Mapping[TableId, TableId]
) -> list[TableId]:
    """Source tables whose destination table is not the one that their rows were copied into. places: as for
    `note_destinations`; tables without an entry have the same name on both sides. A destination table that
    does not exist does not count."""
    query = sql.SQL(
        "SELECT known.schema_name, known.table_name FROM {} AS known"
        " LEFT JOIN unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS place (s, t, at_s, at_t)"
        " ON (place.s, place.t) = (known.schema_name, known.table_name)"
        " JOIN pg_catalog.pg_namespace n ON n.nspname = coalesce(place.at_s, known.schema_name)"
        " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid"
        " AND c.relname = coalesce(place.at_t, known.table_name)"
        " WHERE known.pipeline = %s AND c.oid <> known.destination ORDER BY 1, 2"
    ).format(book("source_table"))
    with translated(KEEPING_BOOKS):
        cursor = await conn.execute(query, [*_columns(places), str(pipeline)])
        return [TableId(*row) async for row in cursor]


def _columns(places: Mapping[TableId, TableId]) -> list[list[str]]:
    pairs = places.items()
    return [
        [table.schema for table, _ in pairs],
        [table.name for table, _ in pairs],
        [place.schema for _, place in pairs],
        [place.name for _, place in pairs],
    ]


async def known_tables(conn: AsyncConnection, pipeline: PipelineId) -> dict[TableId, KnownTable]:
    """All rows of the pipeline. Empty if there is no bookkeeping. Rows are decoded in a thread, because
    decoding tens of thousands of rows would block the coordinator's event loop too long."""
    with translated(KEEPING_BOOKS):
        if not await books_exist(conn):
            return {}
        query = "SELECT schema_name, table_name, identity, signatures FROM {} WHERE pipeline = %s"
        cursor = await conn.execute(sql.SQL(query).format(book("source_table")), [str(pipeline)])
        rows = await cursor.fetchall()
    found = await asyncio.to_thread(lambda: [_known(row) for row in rows])
    return {one.identity.table: one for one in found}


async def known_table(conn: AsyncConnection, pipeline: PipelineId, table: TableId) -> KnownTable | None:
    """One row of the pipeline."""
    with translated(KEEPING_BOOKS):
        query = (
            "SELECT schema_name, table_name, identity, signatures FROM {}"
            " WHERE pipeline = %s AND schema_name = %s AND table_name = %s"
        )
        cursor = await conn.execute(
            sql.SQL(query).format(book("source_table")), [str(pipeline), table.schema, table.name]
        )
        row = await cursor.fetchone()
    return _known(row) if row is not None else None


def _known(row: Sequence[Any]) -> KnownTable:
    schema, name, text, signatures = row
    facts = json.loads(text)
    root = facts[_FACTS] if facts[_FACTS:] else None  # rows of earlier releases have none
    where = (TableId(root[0], root[1]), root[2]) if root is not None else (None, "")
    return KnownTable(_identity((schema, name, *facts[:_FACTS])), tuple(signatures), *where)


async def any_known(conn: AsyncConnection, pipeline: PipelineId) -> bool:
    """Whether identities are recorded for the pipeline at all."""
    with translated(KEEPING_BOOKS):
        if not await books_exist(conn):
            return False
        query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE pipeline = %s)").format(book("source_table"))
        row = await (await conn.execute(query, [str(pipeline)])).fetchone()
    return row is not None and bool(row[0])


async def forget_tables(conn: AsyncConnection, pipeline: PipelineId, tables: Collection[TableId]) -> None:
    """Delete rows, within the caller's transaction."""
    query = sql.SQL(
        "DELETE FROM {} WHERE pipeline = %s AND (schema_name, table_name) IN"
        " (SELECT s, t FROM unnest(%s::text[], %s::text[]) AS gone (s, t))"
    ).format(book("source_table"))
    with translated(KEEPING_BOOKS):
        await conn.execute(query, [str(pipeline), [t.schema for t in tables], [t.name for t in tables]])


def freshly_known(
    tables: Mapping[TableId, TableIdentity], roots: Mapping[TableId, tuple[TableId, str]] | None = None
) -> list[KnownTable]:
    """The tables as recorded at the start of a copy: from then on only this shape is expected. roots: for
    tables whose rows are written to their root's table, the root and its division."""
    own = (None, "")
    return [KnownTable(one, (one.signature,), *(roots or {}).get(t, own)) for t, one in tables.items()]
