"""Copy one part: the rows of a table, or a range of them, under an exported snapshot, in one transaction on
the destination.

Theory of operation. The destination transaction checks the ledger, empties the table unless the part is a
range of it, copies the rows, records the part in the ledger and commits. So either the whole part is on the
destination or nothing of it. A retry after any failure starts with no rows of the part, and a part that is in
the ledger is never copied again. An advisory lock prevents two copiers from copying one part at the same
time: its lease may have passed to the second while the first is still running.

COPY FREEZE writes rows that need no later vacuum. It requires that the table is emptied in the same
transaction and is not partitioned. Plain `COPY t` reads only the table's own rows, which is correct for a
leaf partition and for an inheritance parent. A range of them is `SELECT ... FROM ONLY t`. A part may also be
a whole partitioned table, if the destination lacks its partitions.

The source's transaction locks the table as the snapshot shows it: services.shared.pg.copy.snapshot.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import CopyPart, CtidRange, ErrorKind, PartRange, PgmigError, PipelineId
from services.shared.pg.bookkeeping.copy_ledger import already, enter_part, look
from services.shared.pg.copy.binary_format import binary_safe
from services.shared.pg.copy.errors import copy_failure
from services.shared.pg.copy.libpq_stream import CopyIn, CopyOut
from services.shared.pg.copy.relay import Pace, Progress, may_relay, relay
from services.shared.pg.copy.snapshot import begin_under_snapshot
from services.shared.pg.copy.table import Described, describe, described, empty, table_name
from services.shared.pg.session.connection import connect, translated
from services.shared.pg.session.encoding import copy_options, stored_encoding
from services.shared.pg.session.pipelined import answers

__all__ = ["Copied", "PartCopier", "binary_safe"]

BULKY = 8 << 20
"""libpq keeps the buffer that its largest row needed. After a larger row than this, in bytes, reconnect."""

_REQUIRED = {
    "lock_timeout": "60s",
    # Once the ledger has the part, its rows are not checked again. So they must be on disk before that.
    "synchronous_commit": "on",
    # A copier whose host failed must not keep its lock on the table for hours.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_WELCOME = {
    "session_replication_role": "replica",  # no triggers; only for superusers unless granted
    "client_connection_check_interval": "5s",  # from 14 on, not on every platform
}


@dataclass(frozen=True, slots=True)
class Copied:
    """rows, bytes (of COPY data): as recorded in the ledger. already: copied by an earlier attempt."""

    rows: int
    bytes: int
    already: bool = False


async def unhurried(_size: int) -> None:
    """A pace without a limit."""


class PartCopier:
    """Copies parts of one pipeline, one at a time, on two connections that stay open between parts."""

    def __init__(self, source_uri: str, destination_uri: str, pipeline: PipelineId) -> None:
        self._source_uri = source_uri
        self._destination_uri = destination_uri
        self._pipeline = pipeline
        self._source: AsyncConnection | None = None
        self._destination: AsyncConnection | None = None
        self._relaying = False

    async def copy(self, part: CopyPart, on_progress: Progress, pace: Pace = unhurried) -> Copied | None:
        """Copy `part` unless the ledger has it. Returns None if another session is copying it now.

        on_progress: called often with the rows and bytes so far. If the copy fails or is cancelled, both
        connections are closed and the destination rolls back. Raises SNAPSHOT_LOST, TABLE_CHANGED, FENCED for
        a part whose plan is not in force, COPY_FAILED, or the errors of `connect` and `translate`.
        """
        bulky = True
        try:
            source, destination = await self._connections()
            try:
                copied, bulky = await self._transaction(source, destination, part, on_progress, pace)
            except psycopg.Error as exc:
                raise copy_failure(part.table, exc) from exc
        finally:
            if bulky:
                await self.close()
        return copied

    async def close(self) -> None:
        """Close the connections. The next copy opens new ones."""
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
                self._relaying = await may_relay(self._source) and await may_relay(self._destination)
        return self._source, self._destination

    async def _transaction(
        self,
        source: AsyncConnection,
        destination: AsyncConnection,
        part: CopyPart,
        on_progress: Progress,
        pace: Pace,
    ) -> tuple[Copied | None, bool]:
        """The result, and whether to close the connections."""
        ((free,),), standing, here = await answers(
            destination,
            sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED"),
            _lock(f"{self._pipeline}/{part.part_id}"),
            look(self._pipeline, part),
            describe(part.table),
        )
        # The plan is checked again at the end. This check only saves work.
        earlier = already(standing, part) if free else None
        if not free or earlier:
            await destination.execute("ROLLBACK")
            return (Copied(*earlier, already=True) if earlier else None), False
        there = await begin_under_snapshot(source, part)
        binary = part.binary and _same_types(source, destination, part, there, described(here))
        statements = await _prepare(destination, part, there, described(here), binary=binary)
        transfer = relay if self._relaying else _through_libpq
        sent, stored, size, largest = await transfer(source, destination, statements, on_progress, pace)
        if sent != stored:
            raise PgmigError(
                ErrorKind.COPY_FAILED,
                f"copying {part.table}: the source sent {sent} rows, the destination stored {stored}",
                "look for a trigger or rule on the destination's table that drops rows",
            )
        await enter_part(destination, self._pipeline, part, stored, size)
        await destination.execute("COMMIT")
        await source.execute("COMMIT")
        return Copied(stored, size), largest > BULKY


async def _configure(conn: AsyncConnection) -> None:
    """Set the additional session settings: the required ones, and the optional ones if they are allowed."""
    statement = "SELECT pg_catalog.set_config(%s, %s, false)"
    for name, value in _REQUIRED.items():
        await conn.execute(statement, [name, value])
    for name, value in _WELCOME.items():
        with suppress(
            psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedObject, psycopg.DataError
        ):
            await conn.execute(statement, [name, value])


def _lock(part: str) -> sql.Composed:
    key = int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), signed=True)
    return sql.SQL("SELECT pg_catalog.pg_try_advisory_xact_lock({})").format(sql.Literal(key))


async def _prepare(
    destination: AsyncConnection, part: CopyPart, there: Described, here: Described, *, binary: bool
) -> tuple[sql.Composed, sql.Composed]:
    """Empty the table if the part is the whole table. Returns the statements for source and destination."""
    options = ["FORMAT binary"] if binary else []
    options += copy_options(destination)
    freeze = []
    if part.rows is None:
        truncated = await empty(destination, part.table, here)
        freeze = ["FREEZE"] if truncated and not here.partitioned else []
    return copy_out(part, options, divided=there.partitioned), copy_in(part, [*freeze, *options])


def _same_types(
    source: AsyncConnection, destination: AsyncConnection, part: CopyPart, there: Described, here: Described
) -> bool:
    """Whether the part's columns have the same types on both sides, and all types are safe in binary format.
    A table that was created by hand may have other types, and a server would read the bytes of one type as a
    value of another. In binary format, text has the session's encoding, whatever encoding COPY is given."""
    if stored_encoding(source):
        return False
    ends = [{name: end.types.get(name) for name in part.columns} for end in (there, here)]
    types = [oid for oid in ends[0].values() if oid is not None]
    return ends[0] == ends[1] and binary_safe(
        types, source.info.server_version, destination.info.server_version
    )


async def _through_libpq(
    source: AsyncConnection,
    destination: AsyncConnection,
    statements: tuple[sql.Composed, sql.Composed],
    on_progress: Progress,
    pace: Pace,
) -> tuple[int, int, int, int]:
    """The same as `relay`, for connections whose channel cannot be used."""
    reader, writer = CopyOut(source), CopyIn(destination)
    await reader.start(statements[0])
    await writer.start(statements[1])
    size = 0
    while data := await reader.read():
        size += len(data)
        await writer.write(data)
        on_progress(reader.rows, size)
        await pace(len(data))
        del data  # otherwise a large row would be in memory three times
        await asyncio.sleep(0)  # neither side may have waited: let the lease be renewed
    return reader.rows, await writer.finish(), size, reader.largest


def copy_out(part: CopyPart, options: list[str], *, divided: bool = False) -> sql.Composed:
    """COPY of the part's rows from the source. divided: the table is partitioned there, so the rows of its
    partitions are included. An empty column list, COPY t (), would be a syntax error."""
    columns = sql.SQL(", ").join(map(sql.Identifier, part.columns))
    if divided:
        rows = sql.SQL("(SELECT {} FROM {})").format(columns, table_name(part.table))
    elif part.rows is None:
        rows = sql.SQL("{} {}").format(
            table_name(part.table), sql.SQL("({})").format(columns) if part.columns else sql.SQL("")
        )
    else:
        rows = sql.SQL("(SELECT {} FROM ONLY {} WHERE {})").format(
            columns, table_name(part.table), _within(part.rows)
        )
    return sql.SQL("COPY {} TO STDOUT {}").format(rows, _with(options))


def copy_in(part: CopyPart, options: list[str]) -> sql.Composed:
    """COPY of the part's rows to the destination."""
    columns = sql.SQL(", ").join(map(sql.Identifier, part.columns))
    return sql.SQL("COPY {} {} FROM STDIN {}").format(
        table_name(part.table),
        sql.SQL("({})").format(columns) if part.columns else sql.SQL(""),
        _with(options),
    )


def _with(options: list[str]) -> sql.Composable:
    return sql.SQL("WITH ({})").format(sql.SQL(", ").join(map(sql.SQL, options))) if options else sql.SQL("")


def _within(rows: PartRange) -> sql.Composable:
    """The condition for a range. For ctid and integer keys, operators exist only in pg_catalog."""
    if isinstance(rows, CtidRange):
        column: sql.Composable = sql.SQL("ctid")
        low: sql.Composable | None = _tid(rows.first)
        end = None if rows.end is None else _tid(rows.end)
    else:
        column = sql.Identifier(rows.column)
        low = None if rows.low is None else sql.Literal(rows.low)
        end = None if rows.end is None else sql.Literal(rows.end)
    limits = [sql.SQL("{} >= {}").format(column, low)] if low is not None else []
    limits += [sql.SQL("{} < {}").format(column, end)] if end is not None else []
    return sql.SQL(" AND ").join(limits) if limits else sql.SQL("true")


def _tid(block: int) -> sql.Composable:
    return sql.SQL("{}::pg_catalog.tid").format(sql.Literal(f"({block},0)"))
