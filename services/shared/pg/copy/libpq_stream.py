"""COPY data out of one server and into another through libpq, where it does not lend its channel.

Theory of operation. Where it lends it, `copy_relay` does better. No row is parsed, and
none becomes a Python object of its own for longer than a moment: libpq hands over one row at a
time, and rows are joined to about CHUNK bytes for each message to the other server, which cares
about no boundaries. libpq must hold a whole row, so memory is bounded by CHUNK and twice the
largest row. (psycopg's own iteration over rows costs about twice the CPU time.)

The connections are non-blocking. A socket is registered with the event loop only while nothing
can be read or written, and a destination that does not take more stops the reading: that is
all the back-pressure needed.

While data is sent, libpq looks at no answer. Yet a server that has failed says so at once and
then throws the rest away, which for a large table may take hours; so input that is no notice
ends the sending.
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
    """What both directions share: a statement sent, and results awaited."""

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
        """The row count of the finished COPY; raises psycopg.Error when it failed."""
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
    """Reads what COPY ... TO STDOUT sends. rows: so far; in binary one too many, until the end."""

    side = "source"

    def __init__(self, conn: AsyncConnection) -> None:
        super().__init__(conn)
        self._ended = False
        self.rows = 0
        self.largest = 0
        """Bytes of the largest chunk so far; well beyond CHUNK it is that of one row."""

    async def start(self, statement: sql.Composable) -> None:
        await self._start(statement, ExecStatus.COPY_OUT)

    async def read(self) -> Data:
        """Whole rows: as many as are there, up to about CHUNK bytes; b"" at the end."""
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
        # One large row is passed on as it is: a copy of it would be felt.
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
        """Send `data`; returns when the kernel has it all. Raises psycopg.Error as soon as the
        server has said that the COPY failed."""
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
        self._pgconn.is_busy()  # has libpq hand out notices
        if self._notices == notices:
            await self.finish(b"the server has answered before the end of the data")

    async def finish(self, abort: bytes | None = None) -> int:
        """End the data (`abort`: and let the COPY fail); the number of rows stored."""
        self._conn.remove_notice_handler(self._on_notice)
        while not self._pgconn.put_copy_end(abort):
            await socket_ready(self._pgconn.socket, write=True)
            self._pgconn.flush()
        await self._flush()
        return await self._rows()


def _pieces(data: Data) -> Iterator[Data]:
    """`data` in pieces that never make libpq's buffer grow to the size of a large row."""
    if len(data) <= 2 * CHUNK:
        yield data
        return
    view = memoryview(data)
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]
