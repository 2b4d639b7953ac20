"""Read a walsender through libpq, for connections whose channel libpq does not share (`raw_connection`)."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import pq

from services.shared.model import PgmigError
from services.shared.pg.replication.wal_frames import XLOG_DATA
from services.shared.pg.replication.wal_stream import DOING, Item, read_keepalive, stream_ended
from services.shared.pg.session.connection import translate
from services.shared.pgoutput.fragments import LONG, cut

LIBPQ_DRAIN = 1 << 20
"""Bytes after which a drain through libpq ends. A single message may be longer."""
_HEADER_SIZE = 25  # bytes before a pgoutput message: type, start, end, clock


class LibpqWalStream:
    """A stream through libpq. Create it after the answer to START_REPLICATION."""

    pending = must_write = False  # a drain that leaves data behind has returned some

    def __init__(self, pgconn: pq.abc.PGconn, failed: Callable[[pq.abc.PGresult], PgmigError]) -> None:
        self._pgconn = pgconn
        self._failed = failed
        self._ended: PgmigError | None = None

    @property
    def fileno(self) -> int:
        return self._pgconn.socket

    def close(self) -> None:
        """Does nothing: the owner of the connection closes it."""

    def drain(self) -> tuple[list[Item], int]:
        if self._ended is not None:
            raise self._ended
        items: list[Item] = []
        size = 0
        consumed = False
        try:
            while size < LIBPQ_DRAIN:
                length, data = self._pgconn.get_copy_data(1)
                if length > 0:
                    size += length
                    self._take(data, items)
                    consumed = False
                elif length < 0:
                    self._ended = self._end()
                    break
                elif consumed:
                    break
                else:
                    self._pgconn.consume_input()
                    consumed = True
        except psycopg.Error as exc:
            self._ended = translate(exc, DOING)
        if self._ended is not None and not items:
            raise self._ended
        return items, size

    def _take(self, data: memoryview, items: list[Item]) -> None:
        if data[0] != XLOG_DATA:
            items.append(read_keepalive(bytes(data)))
        elif len(data) - _HEADER_SIZE < LONG:
            items.append(bytes(data[_HEADER_SIZE:]))
        else:
            items += cut(data[_HEADER_SIZE:])

    def _end(self) -> PgmigError:
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return self._failed(result)
        return stream_ended()

    def send(self, payload: bytes) -> None:
        try:
            self._pgconn.put_copy_data(payload)
            self._pgconn.flush()
        except psycopg.Error as exc:
            raise translate(exc, "confirming a position to the source") from exc
