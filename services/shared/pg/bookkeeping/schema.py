"""The bookkeeping of pgmig on the destination: the schema `pgmig`, shared by all migrations.

Each row is written in the transaction whose effect it records. So either both are committed or neither is:

copy_table    the plan by which a table is copied; used by module copy_ledger, as is copy_part
copy_part     the ledger of the copy: all rows of this part are here, as of `snapshot_lsn`
source_table  each table of the source as it was when it was copied: services.shared.pg.catalog.table_identity
applier       the epoch of the applier that may write: services.shared.pg.apply.fence
sequences     the coordinator that may set the sequences: services.shared.pg.catalog.sequences
progress      if replication origins are not permitted: everything that ends at or before `lsn` is here
step          the coordinator's schema steps
foreign_write writes of others to the migration's tables: services.shared.pg.guard.foreign_writes
conflict      how each conflict was resolved: services.shared.pg.bookkeeping.conflicts
seen          what the publisher has seen of this side: the same module
stride        increments of sequences: services.shared.pg.bidirectional.sequences
deleted_row   rows that this side itself has deleted: services.shared.pg.bidirectional.deletions
guard         who keeps others from writing to the database: services.shared.pg.guard.read_only

Rows are keyed by the pipeline, as `str(PipelineId)`. `cleanup` deletes a migration's rows. With the last
migration's rows it drops the schema.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import BOOKKEEPING_SCHEMA, ErrorKind, PgmigError, PipelineId
from services.shared.pg.session.connection import translated
from services.shared.pg.session.event_triggers import silence

_TABLES = {
    "copy_table": """
        pipeline pg_catalog.text NOT NULL,
        schema_name pg_catalog.text NOT NULL,
        table_name pg_catalog.text NOT NULL,
        epoch pg_catalog.text NOT NULL,
        snapshot pg_catalog.text NOT NULL,
        split pg_catalog.text NOT NULL,
        PRIMARY KEY (pipeline, schema_name, table_name)""",
    "copy_part": """
        pipeline pg_catalog.text NOT NULL,
        part_id pg_catalog.text NOT NULL,
        snapshot_lsn pg_catalog.pg_lsn NOT NULL,
        rows pg_catalog.int8 NOT NULL,
        bytes pg_catalog.int8 NOT NULL,
        epoch pg_catalog.text NOT NULL,
        PRIMARY KEY (pipeline, part_id)""",
    "source_table": """
        pipeline pg_catalog.text NOT NULL,
        schema_name pg_catalog.text NOT NULL,
        table_name pg_catalog.text NOT NULL,
        identity pg_catalog.text NOT NULL,
        signatures pg_catalog.text[] NOT NULL,
        destination pg_catalog.oid,
        PRIMARY KEY (pipeline, schema_name, table_name)""",
    "applier": """
        pipeline pg_catalog.text PRIMARY KEY,
        epoch pg_catalog.text NOT NULL""",
    "sequences": """
        pipeline pg_catalog.text PRIMARY KEY,
        claim pg_catalog.text NOT NULL""",
    "progress": """
        pipeline pg_catalog.text PRIMARY KEY,
        lsn pg_catalog.pg_lsn NOT NULL""",
    "guard": """
        pipeline pg_catalog.text PRIMARY KEY,
        instance pg_catalog.text NOT NULL,
        read_only_default pg_catalog.text NOT NULL,
        lifted pg_catalog.float8""",
    "foreign_write": """
        pipeline pg_catalog.text NOT NULL,
        relation pg_catalog.oid NOT NULL,
        role_name pg_catalog.text NOT NULL,
        application pg_catalog.text NOT NULL,
        at pg_catalog.timestamptz NOT NULL""",
    "conflict": """
        id pg_catalog.int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        pipeline pg_catalog.text NOT NULL,
        lsn pg_catalog.pg_lsn NOT NULL,
        schema_name pg_catalog.text NOT NULL,
        table_name pg_catalog.text NOT NULL,
        kind pg_catalog.text NOT NULL,
        decision pg_catalog.text NOT NULL,
        key_columns pg_catalog.text[] NOT NULL,
        key_values pg_catalog.text[] NOT NULL,
        remote_at pg_catalog.timestamptz,
        local_at pg_catalog.timestamptz,
        resolved_at pg_catalog.timestamptz NOT NULL""",
    "seen": """
        pipeline pg_catalog.text PRIMARY KEY,
        seen_us pg_catalog.int8 NOT NULL""",
    "stride": """
        pipeline pg_catalog.text NOT NULL,
        schema_name pg_catalog.text NOT NULL,
        sequence_name pg_catalog.text NOT NULL,
        increment pg_catalog.int8 NOT NULL,
        PRIMARY KEY (pipeline, schema_name, sequence_name)""",
    "deleted_row": """
        pipeline pg_catalog.text NOT NULL,
        relation pg_catalog.oid NOT NULL,
        key pg_catalog.text[] NOT NULL,
        PRIMARY KEY (relation, key, pipeline)""",
    "step": """
        pipeline pg_catalog.text NOT NULL,
        step pg_catalog.text NOT NULL,
        PRIMARY KEY (pipeline, step)""",
}
_INDEXES = {"foreign_write": "relation"}
"""Triggers look for rows by this column, in statements of others."""
# "pgmig" in ASCII. Serializes creation and removal, because IF (NOT) EXISTS does not prevent races.
_LOCK_KEY = 0x70676D6967
NAMED_AT_MOST = 5
LOCK_S = 10
"""How long to wait for another session that changes the bookkeeping, or uses one of its tables."""
KEEPING_BOOKS = f"creating the bookkeeping tables in schema {BOOKKEEPING_SCHEMA} of the destination"


def book(table: str) -> sql.Identifier:
    """The name of one of the tables above."""
    return sql.Identifier(BOOKKEEPING_SCHEMA, table)


@asynccontextmanager
async def alone(conn: AsyncConnection, doing: str = KEEPING_BOOKS) -> AsyncIterator[None]:
    """A transaction that excludes others that change the bookkeeping as a whole. doing: for messages. Raises
    TRANSIENT if one of them does not end."""
    await silence(conn)
    with translated(doing):
        async with conn.transaction():
            await conn.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [f"{LOCK_S}s"])
            await conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [_LOCK_KEY])
            yield


async def books_exist(conn: AsyncConnection) -> bool:
    """Whether the schema and its tables have been created."""
    name = f"{BOOKKEEPING_SCHEMA}.copy_part"
    row = await (await conn.execute("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", [name])).fetchone()
    return row is not None and bool(row[0])


async def ensure_bookkeeping(conn: AsyncConnection) -> None:
    """Create the schema and those of its tables that do not exist."""
    with translated(KEEPING_BOOKS):
        if await _complete(conn):
            return
    async with alone(conn):
        row = await (
            await conn.execute("SELECT pg_catalog.to_regnamespace(%s) IS NULL", [BOOKKEEPING_SCHEMA])
        ).fetchone()
        if row is not None and row[0]:  # IF NOT EXISTS would need CREATE on the database even then
            await conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(BOOKKEEPING_SCHEMA)))
        for table, columns in _TABLES.items():
            await conn.execute(
                sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(book(table), sql.SQL(columns))
            )
        for table, column in _INDEXES.items():
            name = sql.Identifier(f"{table}_{column}")
            await conn.execute(
                sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({})").format(
                    name, book(table), sql.Identifier(column)
                )
            )


async def _complete(conn: AsyncConnection) -> bool:
    names = [f"{BOOKKEEPING_SCHEMA}.{table}" for table in _TABLES]
    query = "SELECT bool_and(pg_catalog.to_regclass(name) IS NOT NULL) FROM unnest(%s::text[]) name"
    row = await (await conn.execute(query, [names])).fetchone()
    return row is not None and bool(row[0])


async def drop_bookkeeping(conn: AsyncConnection, pipeline: PipelineId, *, but: Collection[str] = ()) -> None:
    """Delete the pipeline's rows, except those in the tables `but`.

    If no rows of any pipeline are left, drop the tables, and the schema unless it contains other objects.
    Does nothing if the schema does not exist.

    Raises TRANSIENT, with all rows kept, while the pipeline guards the database or tables have its triggers:
    the rows say how to open the database, and triggers call a function that uses the tables. That is not
    checked with `but`, because the tables stay.
    """
    async with alone(conn):
        if not await books_exist(conn):
            return
        tables = await _present(conn)
        if not but:
            await _check_unused(conn, pipeline, tables)
        for table in (table for table in tables if table not in but):
            await conn.execute(
                sql.SQL("DELETE FROM {} WHERE pipeline = %s").format(book(table)), [str(pipeline)]
            )
        if await _in_use(conn, tables) or await _calling(conn):
            return
        for table in tables:
            await conn.execute(sql.SQL("DROP TABLE {}").format(book(table)))
        try:
            async with conn.transaction():
                await conn.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(BOOKKEEPING_SCHEMA)))
        except psycopg.errors.DependentObjectsStillExist:
            pass


async def _check_unused(conn: AsyncConnection, pipeline: PipelineId, tables: Sequence[str]) -> None:
    if "guard" in tables:
        query = sql.SQL("SELECT FROM {} WHERE pipeline = %s AND lifted IS NULL").format(book("guard"))
        if await (await conn.execute(query, [str(pipeline)])).fetchone() is not None:
            raise PgmigError(
                ErrorKind.TRANSIENT,
                "the database is still read-only by default, and the bookkeeping says what it was before",
                "clean up again; this needs the database's owner or a superuser",
            )
    if calling := await _calling(conn, pipeline):
        more = f" and {len(calling) - NAMED_AT_MOST} more" if len(calling) > NAMED_AT_MOST else ""
        raise PgmigError(
            ErrorKind.TRANSIENT,
            "tables have a trigger of pgmig that needs the bookkeeping: "
            f"{', '.join(calling[:NAMED_AT_MOST])}{more}",
            f"end what locks these tables, or let their owners run DROP TRIGGER {pipeline.origin} ON each of "
            "them, then clean up again",
        )


async def _calling(conn: AsyncConnection, pipeline: PipelineId | None = None) -> list[str]:
    """Tables with a trigger that calls a function of the schema, of this pipeline or of any."""
    cursor = await conn.execute(
        "SELECT DISTINCT t.tgrelid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_trigger t"
        " JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid"
        " WHERE f.pronamespace = pg_catalog.to_regnamespace(%s) AND coalesce(f.proname = %s, true)"
        " ORDER BY 1",
        [BOOKKEEPING_SCHEMA, pipeline.origin if pipeline is not None else None],
    )
    return [row[0] for row in await cursor.fetchall()]


async def has_rows(conn: AsyncConnection, pipeline: PipelineId) -> bool:
    """Whether anything is recorded for the pipeline."""
    with translated("looking for the bookkeeping of the migration"):
        for table in await _present(conn):
            query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE pipeline = %s)").format(book(table))
            row = await (await conn.execute(query, [str(pipeline)])).fetchone()
            if row is not None and row[0]:
                return True
    return False


async def _present(conn: AsyncConnection) -> list[str]:
    """The tables that exist: earlier releases created fewer."""
    query = "SELECT name FROM unnest(%s::text[]) name WHERE pg_catalog.to_regclass(%s || name) IS NOT NULL"
    cursor = await conn.execute(query, [list(_TABLES), f"{BOOKKEEPING_SCHEMA}."])
    return [row[0] for row in await cursor.fetchall()]


async def _in_use(conn: AsyncConnection, tables: Sequence[str]) -> bool:
    exist = sql.SQL(" OR ").join(sql.SQL("EXISTS (SELECT FROM {})").format(book(table)) for table in tables)
    row = await (await conn.execute(sql.SQL("SELECT {}").format(exist))).fetchone()
    return row is not None and bool(row[0])


async def steps_done(conn: AsyncConnection, pipeline: PipelineId) -> set[str]:
    """The steps marked so far. Empty if there is no bookkeeping."""
    with translated(KEEPING_BOOKS):
        if not await books_exist(conn):
            return set()
        cursor = await conn.execute(
            sql.SQL("SELECT step FROM {} WHERE pipeline = %s").format(book("step")), [str(pipeline)]
        )
        return {row[0] for row in await cursor.fetchall()}


async def mark_step(conn: AsyncConnection, pipeline: PipelineId, step: str) -> None:
    """Mark a step, within the caller's transaction if there is one. Has no effect if it is already marked."""
    with translated(KEEPING_BOOKS):
        await conn.execute(step_note(conn, pipeline, [step]))


def step_note(conn: AsyncConnection, pipeline: PipelineId, steps: Sequence[str]) -> bytes:
    """The statement that marks steps, to be sent with the statements that perform them. It has no effect on
    steps that are already marked."""
    rows = sql.SQL(", ").join(
        sql.SQL("({}, {})").format(sql.Literal(str(pipeline)), sql.Literal(step)) for step in steps
    )
    note = sql.SQL("INSERT INTO {} (pipeline, step) VALUES {} ON CONFLICT DO NOTHING;")
    return note.format(book("step"), rows).as_bytes(conn)
