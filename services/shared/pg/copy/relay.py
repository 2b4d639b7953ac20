"""COPY from one server to another by passing on the bytes of their connections, without libpq.

Theory of operation. libpq stores each row twice as a whole, and returns rows one at a time. CopyData messages
are the same in both directions. So the bytes are read from one server into a buffer of fixed size and written
from there to the other server. In between, many messages are merged into one (`row_merge`). Memory use does
not depend on the size of a row.

It uses the channel without libpq (`raw_connection`): libpq is idle and has read everything that the server
sent, up to ReadyForQuery. After that, a server sends nothing without a request, except that it ends the
session. After a successful COPY both sessions are idle again and libpq can be used. After an error or a
cancellation libpq cannot be used, so the caller closes both connections. If a server sent anything after its
last ReadyForQuery, that is such an error too, because libpq would miss it.

A source that is faster than the copier sends in pieces of 8 KiB. Waking up for each piece would cost more
than all other work, so the copier pauses briefly after a short read. If the destination does not accept more
data, reading stops too, so no other back-pressure is needed. The destination may fail at any time, and then
it discards the remaining data. So its answers are checked after each write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.pg.copy.errors import FramingError, ServerError
from services.shared.pg.copy.frames import Frames, Message
from services.shared.pg.transport.raw_connection import has_channel, open_channel, ready

BUFFER = 256 * 1024
SHORT = 64 * 1024
PAUSE_S = 0.001
_ANSWERS = 8 * 1024
_COPY_DONE = b"c\0\0\0\4"
_NOT_ASKED_FOR = frozenset("ANS")  # notifications, notices, parameter changes

Progress = Callable[[int, int], None]
"""Called often with the rows and bytes of COPY data so far."""
Pace = Callable[[int], Awaitable[None]]
"""Awaited with the number of bytes that were just sent."""


async def may_relay(conn: AsyncConnection) -> bool:
    """Whether the connection's channel can be used."""
    if conn.pgconn.ssl_in_use:
        return has_channel(conn)
    if conn.info.server_version < 120000:
        return True  # has no GSSAPI encryption
    query = "SELECT encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid = pg_catalog.pg_backend_pid()"
    row = await (await conn.execute(query)).fetchone()
    return row is not None and not row[0]


async def relay(
    source: AsyncConnection,
    destination: AsyncConnection,
    statements: tuple[sql.Composed, sql.Composed],
    on_progress: Progress,
    pace: Pace,
) -> tuple[int, int, int, int]:
    """Run COPY TO STDOUT on the source and COPY FROM STDIN on the destination. Returns rows sent, rows
    stored, bytes of COPY data, and the bytes of the largest piece that libpq had to hold (0). Raises
    psycopg.Error."""
    with (
        _Session(source, "source", BUFFER) as reader,
        _Session(destination, "destination", _ANSWERS) as writer,
    ):
        await reader.begin(statements[0], "H")
        await writer.begin(statements[1], "G")
        while isinstance(piece := await reader.next(), memoryview):
            await writer.write(piece)
            on_progress(reader.frames.frames, reader.frames.size)
            await pace(len(piece))
            # Neither side may have waited: let the lease be renewed.
            await asyncio.sleep(PAUSE_S if len(piece) < SHORT and not reader.has_more else 0)
        reader.check(piece, "c")
        sent = (await reader.expect("C")).rows
        await reader.expect("Z")
        await writer.write(memoryview(_COPY_DONE), quiet=False)
        stored = (await writer.expect("C")).rows
        await writer.expect("Z")
        for session in (reader, writer):
            session.check_nothing_left()
        return sent, stored, reader.frames.size, 0


class _Session:
    """A server at the other end of an idle libpq connection, for the duration of one COPY."""

    def __init__(self, conn: AsyncConnection, side: str, buffer: int) -> None:
        self._conn = conn
        self._side = side
        self.frames = Frames()  # one message for each row, and in binary format one more at the end
        self._buffer = memoryview(bytearray(buffer))
        self._start = self._end = 0  # range of the received bytes that were not returned yet
        self._channel = open_channel(conn)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    @property
    def has_more(self) -> bool:
        """Whether more bytes have been received than were returned."""
        return self._start < self._end

    async def begin(self, statement: sql.Composable, answer: str) -> None:
        text = statement.as_bytes(self._conn)
        await self.write(memoryview(b"Q" + (len(text) + 5).to_bytes(4, "big") + text + b"\0"), quiet=False)
        await self.expect(answer)

    async def expect(self, kind: str) -> Message:
        item = await self.next()
        self.check(item, kind)
        assert isinstance(item, Message)
        return item

    def check(self, item: Message | memoryview, kind: str) -> None:
        if isinstance(item, memoryview) or item.kind != kind:
            what = "data" if isinstance(item, memoryview) else f"message {item.kind!r}"
            raise psycopg.OperationalError(f"the server sent {what} where {kind!r} belongs")

    def check_nothing_left(self) -> None:
        """Raise psycopg.Error if the server sent more than the answers to our requests. libpq would never
        read it, and its state would no longer match the server's."""
        if self.has_more:
            while self._poll() is not None:  # raises the server's own error, if it sent one
                pass
            raise psycopg.OperationalError("the server sent more than the answer to COPY")

    async def next(self) -> Message | memoryview:
        """The next message, or all CopyData that has arrived, valid until the next call. Raises the server's
        error, and OperationalError if the connection is lost."""
        while (item := self._poll()) is None:
            await ready(self._channel)
        return item

    async def write(self, data: memoryview, *, quiet: bool = True) -> None:
        """Send all of `data`. quiet: the server has nothing to send during this time except an error."""
        while data:
            data = data[self._send(data) :]
            if quiet and (item := self._poll()) is not None:
                self.check(item, "nothing")
            if data:
                await ready(self._channel, send=True)

    def _send(self, data: memoryview) -> int:
        try:
            return self._channel.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            while self._poll() is not None:  # it may have sent the reason
                pass
            raise psycopg.OperationalError("the connection was lost while sending") from exc

    def _poll(self) -> Message | memoryview | None:
        """Same as `next`, without waiting. None if nothing complete has arrived."""
        try:
            while True:
                while (item := self._parsed()) is not None:
                    if isinstance(item, memoryview) or item.kind not in _NOT_ASKED_FOR:
                        return self._checked(item)
                if not self._receive():
                    return None
        except FramingError as exc:
            raise psycopg.OperationalError(f"the server sent {exc}") from exc

    def _checked(self, item: Message | memoryview) -> Message | memoryview:
        if isinstance(item, Message) and item.kind == "E":
            fields = item.fields()
            raise ServerError(fields.get("C", ""), fields.get("M", ""), self._side, fields.get("D", ""))
        return item

    def _parsed(self) -> Message | memoryview | None:
        window = self._buffer[self._start : self._end]
        taken, length = self.frames.data(window)
        if taken:
            self._start += taken
            return window[:length]
        taken, message = self.frames.message(window)
        self._start += taken
        return message

    def _receive(self) -> bool:
        """Read what has arrived, after the incomplete header that may be left."""
        left = self._end - self._start
        self._buffer[:left] = self._buffer[self._start : self._end]
        self._start, self._end = 0, left
        try:
            received = self._channel.receive(self._buffer[left:])
        except BlockingIOError:
            return False
        except OSError as exc:
            raise psycopg.OperationalError("the connection was lost") from exc
        if not received:
            raise psycopg.OperationalError("the server closed the connection")
        self._end += received
        return True
