"""Copy data from one server to another through libpq, for connections whose channel cannot be used.

Theory of operation. If the channel can be used, `relay` is faster. Rows are not parsed, and no row is a
separate Python object for long. libpq returns one row at a time, and rows are joined into messages of about
CHUNK bytes for the other server, which accepts any message boundaries. libpq must hold a whole row, so memory
use is at most CHUNK and twice the largest row. (psycopg's own iteration over rows needs about twice the CPU
time.)

The connections are non-blocking. A socket is registered with the event loop only while nothing can be read or
written. If the destination does not accept more data, reading stops too, so no other back-pressure is needed.

While data is sent, libpq does not process answers. But a server that fails reports it at once and then
discards the remaining data, which may take hours for a large table. So any input that is not a notice ends
the sending.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import ClassVar

import psycopg
from psycopg import AsyncConnection, pq, sql
from psycopg.pq import DiagnosticField, ExecStatus

from services.shared.pg.copy.errors import ServerError
from services.shared.pg.transport.raw_connection import socket_ready

CHUNK = 128 * 1024
Data = bytes | memoryview


class _Copy:
    """Code for both directions: send a statement and wait for results."""

    side: ClassVar[str]

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn
        self._pgconn = conn.pgconn

    async def _start(self, statement: sql.Composable, expected: ExecStatus) -> None:
        self._pgconn.send_query(statement.as_bytes(self._conn))
        await self._flush()
        result = await self._result()
        if result is None or result.status != expected:
            await self._drain()
            raise psycopg.ProgrammingError("COPY did not begin") if result is None else self._error(result)

    async def _flush(self) -> None:
        while self._pgconn.flush():
            await socket_ready(self._pgconn.socket, write=True)
            self._pgconn.consume_input()

    async def _result(self) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            await socket_ready(self._pgconn.socket)
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    async def _drain(self) -> None:
        while await self._result() is not None:
            pass

    async def _rows(self) -> int:
        """The row count of the finished COPY. Raises psycopg.Error if it failed."""
        result = await self._result()
        await self._drain()
        if result is None:
            raise psycopg.OperationalError("COPY ended without a result")
        if result.status != ExecStatus.COMMAND_OK:
            raise self._error(result)
        return result.command_tuples or 0

    def _error(self, result: pq.abc.PGresult) -> psycopg.Error:
        return ServerError(
            (result.error_field(DiagnosticField.SQLSTATE) or b"").decode(),
            (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace"),
            self.side,
            (result.error_field(DiagnosticField.MESSAGE_DETAIL) or b"").decode(errors="replace"),
        )


class CopyOut(_Copy):
    """Reads the data of COPY ... TO STDOUT. rows: rows so far; in binary format it is one too many until the
    end."""

    side = "source"

    def __init__(self, conn: AsyncConnection) -> None:
        super().__init__(conn)
        self._ended = False
        self.rows = 0
        self.largest = 0
        """Bytes of the largest chunk so far. If it is much larger than CHUNK, the chunk is a single row."""

    async def start(self, statement: sql.Composable) -> None:
        await self._start(statement, ExecStatus.COPY_OUT)

    async def read(self) -> Data:
        """All complete rows that have arrived, up to about CHUNK bytes. b"" at the end."""
        pieces: list[Data] = []
        size = 0
        take = self._pgconn.get_copy_data
        looked = False
        while size < CHUNK and not self._ended:
            count, row = take(1)
            if count > 0:
                pieces.append(row)
                size += count
                self.rows += 1
                looked = False
            elif count < 0:
                self._ended = True
                self.rows = await self._rows()
            elif not looked:
                self._pgconn.consume_input()
                looked = True
            elif pieces:
                break
            else:
                await socket_ready(self._pgconn.socket)
                looked = False
        self.largest = max(self.largest, size)
        # A single large row is returned without copying, because a copy would cost time and memory.
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class CopyIn(_Copy):
    """Sends data to COPY ... FROM STDIN."""

    side = "destination"

    def __init__(self, conn: AsyncConnection) -> None:
        super().__init__(conn)
        self._notices = 0
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)

    async def start(self, statement: sql.Composable) -> None:
        await self._start(statement, ExecStatus.COPY_IN)
        self._conn.add_notice_handler(self._on_notice)

    def _on_notice(self, _notice: psycopg.errors.Diagnostic) -> None:
        self._notices += 1

    async def write(self, data: Data) -> None:
        """Send `data`. Returns when the kernel has all of it. Raises psycopg.Error as soon as the server
        reports that the COPY failed."""
        for piece in _pieces(data):
            while not self._pgconn.put_copy_data(piece):
                await self._send()
            await self._send()

    async def _send(self) -> None:
        while self._pgconn.flush():
            await socket_ready(self._pgconn.socket, write=True)
            await self._listen()
        await self._listen()

    async def _listen(self) -> None:
        if not self._poll.poll(0):
            return
        notices = self._notices
        self._pgconn.consume_input()
        self._pgconn.is_busy()  # makes libpq deliver notices
        if self._notices == notices:
            await self.finish(b"the server has answered before the end of the data")

    async def finish(self, abort: bytes | None = None) -> int:
        """End the data and return the number of rows stored. abort: make the COPY fail with this message."""
        self._conn.remove_notice_handler(self._on_notice)
        while not self._pgconn.put_copy_end(abort):
            await socket_ready(self._pgconn.socket, write=True)
            self._pgconn.flush()
        await self._flush()
        return await self._rows()


def _pieces(data: Data) -> Iterator[Data]:
    """`data` in pieces, so that libpq's buffer does not grow to the size of a large row."""
    if len(data) <= 2 * CHUNK:
        yield data
        return
    view = memoryview(data)
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]
