"""Read a walsender without libpq.

libpq stores each message twice and returns them one at a time, and it reads at most 16 KiB at once. A
walsender sends many small messages. So pgmig reads the bytes from libpq's channel (`raw_connection`) into a
buffer of fixed size and splits them there (`wal_frames`). A message that is larger than the buffer arrives in
fragments.

libpq is idle at the start and has read everything that the server sent. After START_REPLICATION libpq does
not use the connection any more, and the connection ends with the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import psycopg
from psycopg import AsyncConnection

from services.shared.model import ErrorKind, PgmigError
from services.shared.model.compiled import twin_of
from services.shared.pg.replication import wal_frames
from services.shared.pg.replication.wal_frames import COPY_DATA, LARGEST, OVERHEAD, XLOG_DATA
from services.shared.pg.replication.wal_stream import (
    DOING,
    Item,
    read_keepalive,
    stream_ended,
    unexpected_message,
)
from services.shared.pg.session.encoding import codec_of, stored_encoding
from services.shared.pg.transport.raw_connection import open_channel, ready
from services.shared.pgoutput.fragments import FRAGMENT, Fragment

BUFFER = 1 << 20
_HEADER = struct.Struct(">BI").unpack_from
_HEADER_SIZE = 5
_OTHER_LIMIT = 64 << 10
_IGNORED = frozenset(b"ANS")  # notifications, notices, parameter changes

_split: Callable[[bytearray, int, int], tuple[list[bytes], int]] = twin_of(wal_frames).split

Failed = Callable[[str, str], PgmigError]
"""Creates the error from a SQLSTATE and a message."""


class RawWalStream:
    """A stream that bypasses libpq. Create it on an idle connection, then call `begin`. failed: creates the
    stream's errors."""

    def __init__(self, conn: AsyncConnection, failed: Failed) -> None:
        self._channel = open_channel(conn)
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # range of the received bytes that are not processed yet
        self._missing = 0  # bytes of a long message that have not arrived yet
        self._unsent = b""
        self._must_write = False
        self._ended: PgmigError | None = None
        self._failed = failed
        self._codec = codec_of(stored_encoding(conn))

    @property
    def fileno(self) -> int:
        return self._channel.fileno

    @property
    def pending(self) -> bool:
        return self._channel.pending

    @property
    def must_write(self) -> bool:
        return self._must_write

    def close(self) -> None:
        self._channel.close()

    async def begin(self, command: bytes, failed: Failed) -> None:
        """Send START_REPLICATION and wait for the stream. failed: creates the error if the server refuses."""
        self._unsent = b"Q" + struct.pack(">I", len(command) + 5) + command + b"\0"
        try:
            while self._unsent:
                await self._when_ready(self._send_more, write=True)
            while True:
                self._make_room()
                received = await self._when_ready(self._receive_more)
                if not received:
                    raise stream_ended()
                while (message := self._other()) is not None:
                    kind, body = message
                    if kind == ord("W"):
                        return
                    if kind == ord("E"):
                        raise failed(*_error_fields(body, self._codec))
                    if kind not in _IGNORED:
                        raise unexpected_message(kind)
        except OSError as exc:
            raise _lost(exc) from exc

    def _receive_more(self) -> int:
        received = self._channel.receive(self._view[self._end :])
        self._end += received
        return received

    def _send_more(self) -> int:
        sent = self._channel.send(self._unsent)
        self._unsent = self._unsent[sent:]
        return sent

    async def _when_ready(self, operation: Callable[[], int], *, write: bool = False) -> int:
        while True:
            try:
                return operation()
            except BlockingIOError:
                await ready(self._channel, send=write)

    def drain(self) -> tuple[list[Item], int]:
        if self._ended is not None:
            raise self._ended
        items: list[Item] = []
        received = 0
        try:
            received = self._receive()
            self._take(items)
        except PgmigError as exc:
            self._ended = exc
            if not items:
                raise
        return items, received

    def _receive(self) -> int:
        self._make_room()
        self._must_write = False
        try:
            received = self._receive_more()
        except BlockingIOError:
            self._must_write = self._channel.crossed
            return 0
        except OSError as exc:
            raise _lost(exc) from exc
        if not received:
            raise stream_ended()
        return received

    def _make_room(self) -> None:
        """Move the incomplete message to the front of the buffer."""
        left = self._end - self._start
        if self._start:
            self._view[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left

    def _take(self, items: list[Item]) -> None:
        while True:
            if self._missing:
                if self._start == self._end:
                    return
                self._take_fragment(items)
                continue
            messages, self._start = _split(self._buffer, self._start, self._end)
            items += messages
            if self._end - self._start <= _HEADER_SIZE:
                return
            kind, length = _HEADER(self._buffer, self._start)
            if kind == COPY_DATA and self._buffer[self._start + 5] == XLOG_DATA:
                if length <= LARGEST or self._end - self._start < OVERHEAD + FRAGMENT:
                    return  # until the message or its first fragment is complete
                self._start += OVERHEAD
                self._missing = length + 1 - OVERHEAD
                self._take_fragment(items, self._missing)
                continue
            message = self._other()
            if message is None:
                return
            self._take_other(*message, items)

    def _take_fragment(self, items: list[Item], length: int = 0) -> None:
        stop = min(self._end, self._start + min(self._missing, FRAGMENT))
        items.append(Fragment(bytes(self._view[self._start : stop]), length))
        self._missing -= stop - self._start
        self._start = stop

    def _other(self) -> tuple[int, bytes] | None:
        """The message at the front, which is not WAL data: type and body. None: it is incomplete."""
        if self._end - self._start < _HEADER_SIZE:
            return None
        kind, length = _HEADER(self._buffer, self._start)
        if length < 4 or length > _OTHER_LIMIT:
            raise PgmigError(ErrorKind.TRANSIENT, f"{DOING}: the source sent bytes that are no message")
        stop = self._start + 1 + length
        if stop > self._end:
            return None
        body = bytes(self._view[self._start + 5 : stop])
        self._start = stop
        return kind, body

    def _take_other(self, kind: int, body: bytes, items: list[Item]) -> None:
        if kind == COPY_DATA and body[:1] == b"k":
            items.append(read_keepalive(body))
        elif kind == ord("E"):
            raise self._failed(*_error_fields(body, self._codec))
        elif kind in (ord("c"), ord("C"), ord("Z")):
            raise stream_ended()
        elif kind not in _IGNORED:
            raise unexpected_message(kind)

    def send(self, payload: bytes) -> None:
        """Send `payload`. What the socket does not accept now is sent before the next message. If an earlier
        message is still unsent, `payload` is dropped."""
        if not self._unsent:
            self._unsent = b"d" + struct.pack(">I", len(payload) + 4) + payload
        try:
            self._send_more()
        except BlockingIOError:
            return
        except OSError as exc:
            raise _lost(exc) from exc


def server_error(sqlstate: str, message: str) -> psycopg.Error:
    """The driver's error for an ErrorResponse that the driver did not read."""
    try:
        return psycopg.errors.lookup(sqlstate)(message)
    except KeyError:
        return psycopg.DatabaseError(f"{message} (SQLSTATE {sqlstate or 'none'})")


def _error_fields(body: bytes, codec: str) -> tuple[str, str]:
    """SQLSTATE and primary message of an ErrorResponse, whose text is in Python's `codec`."""
    fields = {field[:1]: field[1:].decode(codec, "replace") for field in body.split(b"\0") if field}
    return fields.get(b"C", ""), fields.get(b"M", "no reason given")


def _lost(exc: OSError) -> PgmigError:
    return PgmigError(ErrorKind.TRANSIENT, f"{DOING}: the connection to the source was lost: {exc}")
