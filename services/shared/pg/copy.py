"""Copying one part: a table's rows, under an exported snapshot, in one destination transaction.

Theory of operation. The destination transaction looks into the ledger, empties the table, takes
the rows, enters the part in the ledger, commits. So a part is on the destination wholly or not
at all, a repetition after any failure starts clean, and one that is in the ledger is never
touched again. An advisory lock keeps two copiers off one part, whose lease may have passed to
the second while the first still lives.

COPY FREEZE writes rows that need no later vacuum; it wants the table emptied in its own
transaction. Plain `COPY t` takes the table's own rows alone, which is right for a partition
leaf and for an inheritance parent alike.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import CopyPart, ErrorKind, MigrationId, PgmigError, TableId
from services.shared.pg.bookkeeping import copied_part, mark_part
from services.shared.pg.connection import connect, translated
from services.shared.pg.copy_errors import SNAPSHOT_GONE, copy_failure, snapshot_lost
from services.shared.pg.copy_format import binary_safe
from services.shared.pg.copy_stream import CopyIn, CopyOut

__all__ = ["Copied", "PartCopier", "binary_safe"]

BULKY = 8 << 20
"""libpq keeps the buffer that its largest row needed: after a row like that, connect anew."""

_REQUIRED = {
    "lock_timeout": "60s",
    # The ledger says that the rows are there, and nobody asks again: so not before they are on disk.
    "synchronous_commit": "on",
    # A copier whose host died must not keep its lock on the table for hours.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_WELCOME = {
    "session_replication_role": "replica",  # no triggers; reserved to superusers unless granted
    "client_connection_check_interval": "5s",  # from 14 on, not on every platform
}
_COLUMN_TYPES = """
    SELECT a.attname, a.atttypid
    FROM pg_catalog.pg_attribute AS a
    JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped"""

_REFERENCED = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k
                   JOIN pg_catalog.pg_class AS c ON c.oid = k.confrelid
                   JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                   WHERE k.contype = 'f' AND k.conrelid <> k.confrelid
                     AND n.nspname = %s AND c.relname = %s)"""


@dataclass(frozen=True, slots=True)
class Copied:
    """rows, bytes (of COPY data): as the ledger has them. already: by an earlier attempt."""

    rows: int
    bytes: int
    already: bool = False


class PartCopier:
    """Copies parts of one migration, one at a time, on two connections that it keeps open."""

    def __init__(self, source_uri: str, destination_uri: str, migration: MigrationId) -> None:
        self._source_uri = source_uri
        self._destination_uri = destination_uri
        self._migration = str(migration)
        self._source: AsyncConnection | None = None
        self._destination: AsyncConnection | None = None

    async def copy(self, part: CopyPart, on_bytes: Callable[[int], None]) -> Copied | None:
        """Copy `part` unless the ledger has it; None when another session is at it just now.

        on_bytes: told the bytes of COPY data so far, often. Cancelled or failed, both
        connections are closed, and the destination rolls back. Raises SNAPSHOT_LOST,
        COPY_FAILED, or what `connect` and `translate` raise.
        """
        bulky = True
        try:
            source, destination = await self._connections()
            try:
                copied, bulky = await self._transaction(source, destination, part, on_bytes)
            except psycopg.Error as exc:
                raise copy_failure(part.table, exc) from exc
        finally:
            if bulky:
                await self.close()
        return copied

    async def close(self) -> None:
        """Close the connections; the next copy opens new ones."""
        source, self._source = self._source, None
        destination, self._destination = self._destination, None
        for conn in (source, destination):
            if conn is not None:
                await conn.close()

    async def _connections(self) -> tuple[AsyncConnection, AsyncConnection]:
        if self._source is None:
            self._source = await connect(self._source_uri, "source")
        if self._destination is None:
            self._destination = await connect(self._destination_uri, "destination")
            with translated("setting up the session on the destination"):
                await _configure(self._destination)
        return self._source, self._destination

    async def _transaction(
        self,
        source: AsyncConnection,
        destination: AsyncConnection,
        part: CopyPart,
        on_bytes: Callable[[int], None],
    ) -> tuple[Copied | None, bool]:
        """The outcome, and whether the connections are to be closed."""
        await destination.execute("BEGIN")
        if not await _locked(destination, f"{self._migration}/{part.part_id}"):
            await destination.execute("ROLLBACK")
            return None, False
        earlier = await copied_part(destination, self._migration, part.part_id)
        if earlier is not None:
            await destination.execute("ROLLBACK")
            return Copied(earlier[1], earlier[2], already=True), False
        await _begin_under_snapshot(source, part)
        binary = part.binary and await _same_types(source, destination, part)
        emptied = await _empty(destination, part.table)
        rows, size, largest = await _relay(source, destination, part, binary, on_bytes, freeze=emptied)
        await mark_part(destination, self._migration, part, rows, size)
        await destination.execute("COMMIT")
        await source.execute("COMMIT")
        return Copied(rows, size), largest > BULKY


async def _empty(conn: AsyncConnection, table: TableId) -> bool:
    """Remove all rows; whether by TRUNCATE, which is denied to a table that a foreign key refers
    to. Our tables have none yet; those of a destination that brought its own schema may."""
    row = await (await conn.execute(_REFERENCED, [table.schema, table.name])).fetchone()
    if row is not None and row[0]:
        await conn.execute(sql.SQL("DELETE FROM ONLY {}").format(_name(table)))
        return False
    await conn.execute(sql.SQL("TRUNCATE ONLY {}").format(_name(table)))
    return True


async def _configure(conn: AsyncConnection) -> None:
    """Session settings beyond those of `connect`; the welcome ones where they are allowed."""
    statement = "SELECT pg_catalog.set_config(%s, %s, false)"
    for name, value in _REQUIRED.items():
        await conn.execute(statement, [name, value])
    for name, value in _WELCOME.items():
        with suppress(
            psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject, psycopg.DataError
        ):
            await conn.execute(statement, [name, value])


async def _locked(conn: AsyncConnection, part: str) -> bool:
    key = int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), signed=True)
    row = await (await conn.execute("SELECT pg_catalog.pg_try_advisory_xact_lock(%s)", [key])).fetchone()
    return row is not None and bool(row[0])


async def _begin_under_snapshot(source: AsyncConnection, part: CopyPart) -> None:
    await source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        await source.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(part.snapshot_name)))
    except psycopg.Error as exc:
        if exc.sqlstate in SNAPSHOT_GONE:
            raise snapshot_lost(part.table) from exc
        raise
    # Names begin again when the server restarts: another snapshot may bear this one.
    row = await (await source.execute("SELECT pg_catalog.txid_current_snapshot()::text")).fetchone()
    if part.snapshot_xids and (row is None or row[0] != part.snapshot_xids):
        raise snapshot_lost(part.table)


async def _same_types(source: AsyncConnection, destination: AsyncConnection, part: CopyPart) -> bool:
    """Whether the part's columns have the same types on both ends, all fit for binary. A table
    made by hand may differ, and eight bytes of one type are as good as eight of another."""
    here, there = await asyncio.gather(_types(source, part), _types(destination, part))
    return here == there and binary_safe(
        here.values(), source.info.server_version, destination.info.server_version
    )


async def _types(conn: AsyncConnection, part: CopyPart) -> dict[str, int]:
    cursor = await conn.execute(_COLUMN_TYPES, [part.table.schema, part.table.name])
    return {name: oid for name, oid in await cursor.fetchall() if name in part.columns}


async def _relay(
    source: AsyncConnection,
    destination: AsyncConnection,
    part: CopyPart,
    binary: bool,
    on_bytes: Callable[[int], None],
    *,
    freeze: bool,
) -> tuple[int, int, int]:
    """(rows, bytes, bytes of the largest chunk), sent and stored."""
    reader, writer = CopyOut(source), CopyIn(destination)
    options = [*(["FREEZE"] if freeze else []), *(["FORMAT binary"] if binary else [])]
    await reader.start(_statement(part, "TO STDOUT", ["FORMAT binary"] if binary else []))
    await writer.start(_statement(part, "FROM STDIN", options))
    size = 0
    while data := await reader.read():
        size += len(data)
        await writer.write(data)
        on_bytes(size)
        del data  # or it would lie beside the next, and a large row be in memory three times
        await asyncio.sleep(0)  # neither side need have waited: let the lease be kept
    stored = await writer.finish()
    if stored != reader.rows:
        raise PgmigError(
            ErrorKind.COPY_FAILED,
            f"copying {part.table}: the source sent {reader.rows} rows, the destination stored {stored}",
            "look for a trigger or rule on the destination's table that drops rows",
        )
    return stored, size, reader.largest


def _name(table: TableId) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


def _statement(part: CopyPart, direction: str, options: list[str]) -> sql.Composed:
    """COPY table (columns) ...; no list for a table without columns, where it would be empty."""
    columns = sql.SQL(", ").join(map(sql.Identifier, part.columns))
    return sql.SQL("COPY {} {} {} {}").format(
        _name(part.table),
        sql.SQL("({})").format(columns) if part.columns else sql.SQL(""),
        sql.SQL(direction),
        sql.SQL("WITH ({})").format(sql.SQL(", ").join(map(sql.SQL, options))) if options else sql.SQL(""),
    )
