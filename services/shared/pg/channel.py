"""The channel between libpq and a server, lent for a while: its socket, or its TLS session.

libpq holds each row or message twice and hands every one over by itself. Whoever moves many, or large
ones, reads and writes the bytes of the protocol past it, while the connection is idle for libpq: it has
read all that the server said, and is not used until the borrower has read all that it asked for.

Where libpq encrypts with OpenSSL, its TLS session is used by `SSL_read` and `SSL_write` of the very
library that libpq is linked with. Nothing of the session changes: the certificate was checked, and the
login bound to it, by libpq. Writes are one TLS record each, since a write that must be tried again has
to be given the same bytes. Kerberos encryption is not lent.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import select
import socket
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from psycopg import AsyncConnection

_RECORD = 16 << 10
"""Bytes of a TLS record at most."""
_WANT_READ, _WANT_WRITE, _SYSCALL, _ZERO_RETURN = 2, 3, 5, 6  # SSL_get_error(3)
_RENEWAL_S = 5.0
"""To send an answer that the TLS session owes before it reads on."""


LOOK_AGAIN_S = 1.0
"""TLS may hold bytes back that the socket does not show any more: look without being woken."""


class Channel(Protocol):
    """Never waits: raises BlockingIOError where it would have to, another OSError when it is lost."""

    @property
    def fileno(self) -> int: ...

    @property
    def pending(self) -> bool:
        """Whether there is more to receive although the socket may not show it."""
        ...

    def receive(self, room: memoryview) -> int:
        """Bytes received to the front of `room`; 0 at the end of the connection."""
        ...

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes at the front were taken. What was not is to be given again, unchanged. That the
        other side is gone may show only when receiving."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


def lends(conn: AsyncConnection) -> bool:
    """Whether it can be borrowed from, Kerberos encryption apart, of which libpq does not tell."""
    return not conn.pgconn.ssl_in_use or _session(conn) is not None


def borrow(conn: AsyncConnection) -> Channel:
    """The channel of an idle connection that lends."""
    if not conn.pgconn.ssl_in_use:
        return PlainChannel(conn.pgconn.socket)
    session = _session(conn)
    assert session is not None
    return TlsChannel(conn.pgconn.socket, session)


class PlainChannel:
    """fd: the socket; it stays its owner's."""

    pending = False

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        self._socket.setblocking(False)

    @property
    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, room: memoryview) -> int:
        return self._socket.recv_into(room)

    def send(self, data: bytes | memoryview) -> int:
        return self._socket.send(data)

    def close(self) -> None:
        self._socket.close()


class TlsChannel:
    """session: the address of OpenSSL's SSL object."""

    def __init__(self, fd: int, session: int) -> None:
        openssl = _libpq()
        assert openssl is not None
        self._openssl = openssl
        self._fd = fd
        self._session = session

    @property
    def fileno(self) -> int:
        return self._fd

    @property
    def pending(self) -> bool:
        return bool(self._openssl.SSL_pending(self._lent()))

    def receive(self, room: memoryview) -> int:
        """As many records as are there, or as have room."""
        base = ctypes.addressof(ctypes.c_char.from_buffer(room)) if room else 0
        received = 0
        while received < len(room):
            self._openssl.ERR_clear_error()
            count = self._openssl.SSL_read(self._lent(), base + received, len(room) - received)
            if count > 0:
                received += count
            elif received:
                break  # an end or an error will show again
            elif self._blocked(count):
                raise BlockingIOError
            else:
                return 0
        return received

    def send(self, data: bytes | memoryview) -> int:
        sent = 0
        while sent < len(data):
            record = bytes(data[sent : sent + _RECORD])
            self._openssl.ERR_clear_error()
            count = self._openssl.SSL_write(self._lent(), record, len(record))
            if count > 0:
                sent += count
            elif sent:
                break
            elif self._blocked(count, sending=True):
                raise BlockingIOError
            else:
                raise ConnectionResetError("the TLS session was ended by the server")
        return sent

    def _blocked(self, result: int, *, sending: bool = False) -> bool:
        """Why nothing came of a call: True to wait, False at the end of the session. Raises OSError."""
        reason = self._openssl.SSL_get_error(self._lent(), result)
        self._openssl.ERR_clear_error()  # others of this thread look into the same queue
        if reason == _WANT_WRITE and not sending:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll(_RENEWAL_S * 1000)
            return True
        if reason in {_WANT_READ, _WANT_WRITE}:
            return True
        if reason == _ZERO_RETURN:
            return False
        if reason == _SYSCALL:
            raise ConnectionResetError("the connection was reset, or closed without notice")
        raise ConnectionResetError("the TLS session is broken")

    def _lent(self) -> int:
        if not self._session:
            raise OSError(errno.EBADF, "the TLS session was given back")
        return self._session

    def close(self) -> None:
        """Libpq may free the session from now on."""
        self._session = 0


def _session(conn: AsyncConnection) -> int | None:
    """The address of libpq's SSL object. None: there is none of OpenSSL's, or no way to it."""
    library = _libpq()
    if library is None:
        return None
    found: int | None = library.PQsslStruct(cast(Any, conn.pgconn).pgconn_ptr, b"OpenSSL")
    return found


async def socket_ready(fd: int, *, write: bool = False) -> None:
    """Wait until the socket can be read (or, with `write`, read or written)."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    if write:
        loop.add_writer(fd, wake)
    timer = loop.call_later(LOOK_AGAIN_S, wake)
    try:
        await ready
    finally:
        timer.cancel()
        loop.remove_reader(fd)
        if write:
            loop.remove_writer(fd)


@cache
def _libpq() -> ctypes.CDLL | None:
    """The libpq that psycopg uses, and through it the OpenSSL that this is linked with."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    names = {line.split(maxsplit=5)[-1] for line in mapped.splitlines() if "/libpq" in line}
    paths = [name for name in names if Path(name).name.startswith(("libpq.so", "libpq-"))]
    if len(paths) != 1:
        return None  # which of them made the connection?
    try:
        library = ctypes.CDLL(paths[0])
        pointer, number = ctypes.c_void_p, ctypes.c_int
        for name, result, arguments in (
            ("PQsslStruct", pointer, [pointer, ctypes.c_char_p]),
            ("SSL_read", number, [pointer, pointer, number]),
            ("SSL_write", number, [pointer, ctypes.c_char_p, number]),
            ("SSL_pending", number, [pointer]),
            ("SSL_get_error", number, [pointer, number]),
            ("ERR_clear_error", None, []),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library
