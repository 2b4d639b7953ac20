"""The only module that uses PostgreSQL's streaming replication protocol, over psycopg's libpq wrapper.

psycopg supports replication connections only as raw `pgconn` calls; all of them are here. A `WalStream` reads
the stream: the walsender sends each message separately, so `drain` returns what has arrived, and the caller
pauses briefly after a short drain instead of waking for every message. The socket is registered with the
event loop only during `wait_readable`.

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
from services.shared.pg.replication.libpq_wal_stream import LibpqWalStream
from services.shared.pg.replication.raw_wal_stream import Failed, RawWalStream, server_error
from services.shared.pg.replication.stream_options import stream_options
from services.shared.pg.replication.wal_stream import DOING, Item, WalStream
from services.shared.pg.session.connection import (
    complete_conninfo,
    connect,
    connect_failure,
    open_session,
    translate,
)
from services.shared.pg.session.encoding import codec_of, set_encoding, stored_encoding
from services.shared.pg.transport.raw_connection import has_channel

FAILOVER_SINCE = 170000
"""server_version_num from which on a slot can be a failover slot."""
_STATUS = struct.Struct(">cQQQqc")
_PG_EPOCH_US = 946_684_800_000_000
DECODING_WORK_MEM = 256 << 10
"""kB. The walsender writes larger transactions to its disk while it decodes them. The servers' default is 64
MB, which a transaction of 300,000 small rows exceeds. From version 13 on."""
_MORE_MEMORY = sql.SQL(
    "SELECT pg_catalog.set_config(name, {}, false) FROM pg_catalog.pg_settings"
    " WHERE name = 'logical_decoding_work_mem' AND setting::bigint < {}"
).format(sql.Literal(str(DECODING_WORK_MEM)), sql.Literal(DECODING_WORK_MEM))


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """Result of IDENTIFY_SYSTEM. A restored backup has the same identifier but another timeline."""

    system_identifier: str
    timeline: int
    flush_lsn: Lsn


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of pg_replication_slots. active_pid: 0 if no session streams from the slot. synchronized: it is a
    failover slot that was synchronized from a primary, while this server was a standby."""

    confirmed_flush_lsn: Lsn
    active_pid: int
    lost: bool
    plugin: str
    temporary: bool = False
    synchronized: bool = False


class ReplicationConnection:
    """A `replication=database` connection. Use `async with await ReplicationConnection.open(uri)`."""

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn
        self._pgconn = conn.pgconn
        self._stream: WalStream | None = None
        # pgmig encrypts with Kerberos only if the connection string asks for it
        self._gss = conn.info.get_parameters().get("gssencmode", "disable") != "disable"

    @classmethod
    async def open(cls, uri: str, database: str = "", side: str = "source") -> ReplicationConnection:
        """database: a database of the same server to connect to instead of the URI's. side: for messages."""
        other = {"dbname": database} if database else {}
        info = complete_conninfo(uri, "pgmig decoder", side, replication="database", **other)
        try:
            return cls(await open_session(info))
        except psycopg.OperationalError as exc:
            raise connect_failure(exc, uri, side) from exc

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        await self._conn.close()

    @property
    def server_version(self) -> int:
        """server_version_num: 170004 for 17.4."""
        return self._conn.info.server_version

    async def _command(self, command: sql.Composable | str | bytes, doing: str) -> pq.abc.PGresult:
        """Run one walsender command. Walsenders support only the simple query protocol."""
        if isinstance(command, sql.Composable):
            text = command.as_bytes(None)
        else:
            text = command.encode() if isinstance(command, str) else command

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

    async def timeline_history(self, timeline: int) -> dict[int, Lsn]:
        """By each earlier timeline in the history of `timeline`: where its WAL ends there."""
        row = _row(await self._command(f"TIMELINE_HISTORY {timeline}", "reading the source's timelines"))
        return parse_history(row[1])

    async def create_slot(self, name: str, *, temporary: bool = False) -> tuple[Lsn, str]:
        """Returns (consistent point, exported snapshot). The snapshot exists until the next command on this
        connection. From 17 on, a slot that is not temporary is a failover slot, which standbys can
        synchronize."""
        kind = sql.SQL("TEMPORARY LOGICAL") if temporary else sql.SQL("LOGICAL")
        options = sql.SQL("EXPORT_SNAPSHOT")
        if not temporary and self.server_version >= FAILOVER_SINCE:
            options = sql.SQL("(SNAPSHOT 'export', FAILOVER true)")
        command = sql.SQL("CREATE_REPLICATION_SLOT {} {} pgoutput {}").format(
            sql.Identifier(name), kind, options
        )
        row = _row(await self._command(command, f"creating replication slot {name}"))
        return Lsn.parse(row[1]), row[2]

    async def start(self, slot: str, start: Lsn, *publications: str, local_only: bool = False) -> None:
        """START_REPLICATION. The server begins at `start` or, without notice, at the slot's
        confirmed_flush_lsn if that is later. So check the slot first. local_only: see `stream_options`."""
        options = [
            sql.SQL("{} {}").format(sql.SQL(name), sql.Literal(value))
            for name, value in stream_options(
                self.server_version, publications, local_only=local_only
            ).items()
        ]
        command = sql.SQL("START_REPLICATION SLOT {} LOGICAL {} ({})").format(
            sql.Identifier(slot), sql.SQL(str(start)), sql.SQL(", ").join(options)
        )
        doing = f"streaming from slot {slot}"
        await self._command(_MORE_MEMORY, doing)
        text = command.as_bytes(None)  # psycopg may not know the next encoding
        if encoding := stored_encoding(self._conn):
            await self._command(set_encoding(encoding), doing)
        if not has_channel(self._conn) or (self._gss and not self._pgconn.ssl_in_use):
            await self._command(text, doing)
            self._stream = LibpqWalStream(
                self._pgconn, lambda result: _result_error(self._conn, result, DOING)
            )
        else:
            self._stream = stream = RawWalStream(self._conn, _refused(DOING))
            await stream.begin(text, _refused(doing))

    def drain(self) -> tuple[list[Item], int]:
        """The items that have arrived, and their number of bytes; see `WalStream`."""
        assert self._stream is not None
        return self._stream.drain()

    async def wait_readable(self, timeout: float) -> None:
        """Return when bytes may have arrived, or after `timeout` seconds."""
        assert self._stream is not None
        if self._stream.pending:
            return
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        try:
            socket = self._stream.fileno
            if self._stream.must_write:
                loop.add_writer(socket, ready.set)
            else:
                loop.add_reader(socket, ready.set)
        except psycopg.Error as exc:
            raise translate(exc, DOING) from exc
        try:
            async with asyncio.timeout(timeout):
                await ready.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_reader(socket)
            loop.remove_writer(socket)

    def send_status(self, written: Lsn, flushed: Lsn, *, reply: bool = False) -> None:
        """Send a standby status update. The slot no longer needs WAL before `flushed`."""
        assert self._stream is not None
        clock = time.time_ns() // 1000 - _PG_EPOCH_US
        self._stream.send(
            _STATUS.pack(
                b"r", written.value, flushed.value, flushed.value, clock, b"\x01" if reply else b"\x00"
            )
        )


async def slot_state(conn: AsyncConnection, name: str) -> SlotState | None:
    """None if there is no such slot in this database's cluster."""
    # Before 13, a slot keeps all the WAL that it needs.
    lost = "wal_status = 'lost'" if conn.info.server_version >= 130000 else "false"
    synchronized = "failover AND synced" if conn.info.server_version >= FAILOVER_SINCE else "false"
    query = sql.SQL(
        "SELECT confirmed_flush_lsn::text, coalesce(active_pid, 0), coalesce({}, false), plugin::text,"
        " temporary, {} FROM pg_catalog.pg_replication_slots WHERE slot_name = %s"
    ).format(sql.SQL(lost), sql.SQL(synchronized))
    row = await (await conn.execute(query, [name])).fetchone()
    if row is None:
        return None
    return SlotState(Lsn.parse(row[0] or "0/0"), row[1], row[2], row[3] or "", row[4], row[5])


class SnapshotKeeper:
    """A transaction that keeps an exported snapshot alive and exports it again.

    The snapshot of CREATE_REPLICATION_SLOT ends with the next command on that connection. The keeper imports
    it before that, so streaming can start while copiers still use `name`.
    """

    def __init__(self, conn: AsyncConnection, name: str, xids: str) -> None:
        self._conn = conn
        self.name = name
        self.xids = xids  # txid_current_snapshot(), the same for every session that imports it

    @classmethod
    async def adopt(cls, uri: str, exported: str | None) -> SnapshotKeeper:
        """exported=None: a snapshot of the present, for a clone that does not replicate changes."""
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
        """Whether the keeper's transaction is still open."""
        try:
            await self._conn.execute("SELECT 1")
        except psycopg.Error:
            return False
        return True

    async def close(self) -> None:
        await self._conn.close()


def parse_history(text: str) -> dict[int, Lsn]:
    """The content of a timeline history file: earlier timelines, and the LSN at which each was left. A
    timeline that was left twice is not possible."""
    found = {}
    for line in text.splitlines():
        fields = line.split("#", 1)[0].split("\t")
        if len(fields) > 1:
            found[int(fields[0])] = Lsn.parse(fields[1].strip())
    return found


def _row(result: pq.abc.PGresult) -> list[str]:
    return [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]


def _result_error(conn: AsyncConnection, result: pq.abc.PGresult, doing: str) -> PgmigError:
    error = psycopg.errors.error_from_result(result, encoding=codec_of(stored_encoding(conn)))
    return _state_error(error.sqlstate or "", (error.diag.message_primary or "").strip(), error, doing)


def _refused(doing: str) -> Failed:
    return lambda state, text: _state_error(state, text, server_error(state, text), doing)


def _state_error(state: str, text: str, error: psycopg.Error, doing: str) -> PgmigError:
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
