"""The one seam to PostgreSQL's streaming replication protocol, over psycopg's libpq wrapper.

psycopg offers replication connections only as raw `pgconn` calls; all of them are here.
Reading: libpq hands over at most 16 KiB at a time, and the walsender sends each message on its
own, so `drain` empties what has arrived and the caller pauses briefly after a short drain
instead of waking for every message. The socket is registered with the event loop only while
`wait_readable` waits.

Protocol: https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import dataclass
from typing import cast

import psycopg
from psycopg import AsyncConnection, generators, pq, sql
from psycopg.abc import PQGen

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pg.connection import complete_conninfo, connect, connect_failure, open_session, translate
from services.shared.pg.stream_options import stream_options

_KEEPALIVE = struct.Struct(">cqqc")
_STATUS = struct.Struct(">cQQQqc")
_PG_EPOCH_US = 946_684_800_000_000
_WAL_DATA = ord("w")
_WAL_DATA_HEADER = 25  # bytes before the pgoutput message: type, start, end, clock
DRAIN_BYTES = 4 << 20
DECODING_WORK_MEM = "256MB"


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """IDENTIFY_SYSTEM. A restored backup keeps the identifier but changes the timeline."""

    system_identifier: str
    timeline: int
    flush_lsn: Lsn


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of pg_replication_slots. active_pid: 0 when nobody streams from it."""

    confirmed_flush_lsn: Lsn
    active_pid: int
    lost: bool
    plugin: str


@dataclass(frozen=True, slots=True)
class Keepalive:
    """wal_end: the walsender has sent everything before it that concerns us."""

    wal_end: Lsn
    reply_requested: bool


class ReplicationConnection:
    """A `replication=database` connection. Use `async with await ReplicationConnection.open(uri)`."""

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn
        self._pgconn = conn.pgconn
        self._ended: PgmigError | None = None

    @classmethod
    async def open(cls, uri: str) -> ReplicationConnection:
        info = complete_conninfo(uri, "pgmig decoder", replication="database")
        try:
            return cls(await open_session(info))
        except psycopg.OperationalError as exc:
            raise connect_failure(exc, uri, "source") from exc

    async def close(self) -> None:
        await self._conn.close()

    @property
    def server_version(self) -> int:
        """server_version_num: 170004 for 17.4."""
        return self._conn.info.server_version

    async def _command(self, command: sql.Composable | str, doing: str) -> pq.abc.PGresult:
        """Run one walsender command: they know only the simple query protocol."""
        text = command.encode() if isinstance(command, str) else command.as_bytes(self._conn)

        def run() -> PQGen[list[pq.abc.PGresult]]:
            self._pgconn.send_query(text)
            return cast("list[pq.abc.PGresult]", (yield from generators.execute(self._pgconn)))

        try:
            result: pq.abc.PGresult = (await self._conn.wait(run()))[0]
        except psycopg.Error as exc:
            raise translate(exc, doing) from exc
        if result.status not in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.COPY_BOTH}:
            raise _result_error(self._conn, result, doing)
        return result

    async def identify_system(self) -> SystemIdentity:
        row = _row(await self._command("IDENTIFY_SYSTEM", "identifying the source"))
        return SystemIdentity(row[0], int(row[1]), Lsn.parse(row[2]))

    async def create_slot(self, name: str, *, temporary: bool = False) -> tuple[Lsn, str]:
        """(consistent point, exported snapshot). The snapshot lives until the next command here."""
        kind = sql.SQL("TEMPORARY LOGICAL") if temporary else sql.SQL("LOGICAL")
        command = sql.SQL("CREATE_REPLICATION_SLOT {} {} pgoutput EXPORT_SNAPSHOT").format(
            sql.Identifier(name), kind
        )
        row = _row(await self._command(command, f"creating replication slot {name}"))
        return Lsn.parse(row[1]), row[2]

    async def start(self, slot: str, start: Lsn, *publications: str) -> None:
        """START_REPLICATION. The server begins at `start` or, silently, at the slot's
        confirmed_flush_lsn if that is later: look at the slot first."""
        options = [
            sql.SQL("{} {}").format(sql.SQL(name), sql.Literal(value))
            for name, value in stream_options(self.server_version, publications).items()
        ]
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL {} ({})").format(
            sql.Identifier(slot), sql.SQL(str(start)), sql.SQL(", ").join(options)
        )
        await self._command(command, f"streaming from slot {slot}")

    def drain(self) -> list[bytes | Keepalive]:
        """What has arrived, at most about DRAIN_BYTES of it: pgoutput messages and keepalives.
        Raises when streaming has ended."""
        pgconn = self._pgconn
        messages: list[bytes | Keepalive] = []
        size = 0
        consumed = False
        if self._ended is not None:
            raise self._ended
        try:
            while size < DRAIN_BYTES:
                length, data = pgconn.get_copy_data(1)
                if length > 0:
                    size += length
                    wal = data[0] == _WAL_DATA
                    messages.append(bytes(data[_WAL_DATA_HEADER:]) if wal else read_keepalive(bytes(data)))
                    consumed = False
                elif length < 0:
                    self._ended = self._stream_end()
                    break
                elif consumed:
                    break
                else:
                    pgconn.consume_input()
                    consumed = True
        except psycopg.Error as exc:
            self._ended = translate(exc, "streaming changes")
        if self._ended is not None and not messages:
            raise self._ended
        return messages

    def _stream_end(self) -> PgmigError:
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return _result_error(self._conn, result, "streaming changes")
        return PgmigError(ErrorKind.TRANSIENT, "the source ended the replication stream")

    async def wait_readable(self, timeout: float) -> None:
        """Return when bytes may have arrived, or after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        try:
            loop.add_reader(self._pgconn.socket, ready.set)
        except psycopg.Error as exc:
            raise translate(exc, "streaming changes") from exc
        try:
            async with asyncio.timeout(timeout):
                await ready.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_reader(self._pgconn.socket)

    def send_status(self, written: Lsn, flushed: Lsn, *, reply: bool = False) -> None:
        """Standby status update. `flushed` is what the slot may forget."""
        clock = time.time_ns() // 1000 - _PG_EPOCH_US
        message = _STATUS.pack(
            b"r", written.value, flushed.value, flushed.value, clock, b"\x01" if reply else b"\x00"
        )
        try:
            self._pgconn.put_copy_data(message)
            self._pgconn.flush()
        except psycopg.Error as exc:
            raise translate(exc, "confirming a position to the source") from exc


def read_keepalive(message: bytes) -> Keepalive:
    """A raw keepalive (`k`) message."""
    _, wal_end, _, reply = _KEEPALIVE.unpack(message)
    return Keepalive(Lsn(wal_end), reply == b"\x01")


async def slot_state(conn: AsyncConnection, name: str) -> SlotState | None:
    """None when there is no such slot in this database's cluster."""
    # Before 13 a slot keeps all the WAL that it needs.
    lost = "wal_status = 'lost'" if conn.info.server_version >= 130000 else "false"
    query = sql.SQL(
        "SELECT confirmed_flush_lsn::text, coalesce(active_pid, 0), coalesce({}, false), plugin::text"
        " FROM pg_catalog.pg_replication_slots WHERE slot_name = %s"
    ).format(sql.SQL(lost))
    row = await (await conn.execute(query, [name])).fetchone()
    if row is None:
        return None
    return SlotState(Lsn.parse(row[0] or "0/0"), row[1], row[2], row[3] or "")


class SnapshotKeeper:
    """A transaction that keeps an exported snapshot alive and exports it again.

    The snapshot of CREATE_REPLICATION_SLOT dies with the next command on that connection; the
    keeper imports it first, so that streaming can start while copiers still use `name`.
    """

    def __init__(self, conn: AsyncConnection, name: str, xids: str) -> None:
        self._conn = conn
        self.name = name
        self.xids = xids  # txid_current_snapshot(), the same for everyone who imports it

    @classmethod
    async def adopt(cls, uri: str, exported: str | None) -> SnapshotKeeper:
        """exported=None: a snapshot of now, for a clone that does not follow."""
        conn = await connect(uri, "source")
        try:
            await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if exported is not None:
                await conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(exported)))
            row = await (
                await conn.execute(
                    "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.txid_current_snapshot()::text"
                )
            ).fetchone()
        except psycopg.Error as exc:
            await conn.close()
            raise translate(exc, "holding the snapshot") from exc
        assert row is not None
        return cls(conn, *row)

    async def alive(self) -> bool:
        """Whether the keeper's transaction still stands."""
        try:
            await self._conn.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    async def close(self) -> None:
        await self._conn.close()


def _row(result: pq.abc.PGresult) -> list[str]:
    return [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]


def _result_error(conn: AsyncConnection, result: pq.abc.PGresult, doing: str) -> PgmigError:
    error = psycopg.errors.error_from_result(result, encoding=conn.info.encoding)
    state = error.sqlstate or ""
    text = (error.diag.message_primary or "").strip()
    if state == "55006":
        return PgmigError(
            ErrorKind.SLOT_ACTIVE, f"{doing}: {text}", "stop the other process that streams from this slot"
        )
    if state == "55000" or "requested WAL segment" in text:
        return PgmigError(
            ErrorKind.GAP,
            f"{doing}: {text}",
            "the source no longer has the WAL that is needed: clean up and start the migration again",
        )
    return translate(error, doing)
