"""The channel between libpq and a server, lent for a while: its socket, or its TLS session.

libpq holds each row or message twice and hands every one over by itself. Whoever moves many, or large
ones, reads and writes the bytes of the protocol past it, while the connection is idle for libpq: it has
read all that the server said, and is not used until the borrower has read all that it asked for.

Where libpq encrypts with OpenSSL, its TLS session is used by `SSL_read` and `SSL_write` of the very
library that libpq is linked with. Nothing of the session changes: the certificate was checked, and the
login bound to it, by libpq. Writes are one TLS record each, since a write that must be tried again has
to be given the same bytes. Kerberos encryption is not lent.

A channel holds on to its connection, since libpq frees the TLS session together with it. Before each use the
connection is seen to be open: after somebody has closed it, the session's address means nothing.

Nothing here waits. A TLS session may have to write before it reads on, or the other way round: then the
channel says so, and `ready` waits for what it needs.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

from psycopg import AsyncConnection

_RECORD = 16 << 10
"""Bytes of a TLS record at most."""
_WANT_READ, _WANT_WRITE, _SYSCALL, _ZERO_RETURN = 2, 3, 5, 6  # SSL_get_error(3)

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

    @property
    def crossed(self) -> bool:
        """Whether the last call that would have had to wait needs the other direction of the socket: a
        `receive` that it can be written, a `send` that it can be read."""
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
        return PlainChannel(conn)
    session = _session(conn)
    assert session is not None
    return TlsChannel(conn, session)


class Lender(Protocol):
    """What a channel needs of the connection that it borrows from; an AsyncConnection is one."""

    @property
    def closed(self) -> bool: ...

    def fileno(self) -> int: ...


def _open(lender: Lender | None) -> None:
    """Raises OSError unless the connection is still lent, and open."""
    if lender is None:
        raise OSError(errno.EBADF, "the channel was given back")
    if lender.closed:
        raise OSError(errno.EBADF, "the connection was closed while its channel was in use")


class PlainChannel:
    """By a descriptor of its own for the connection's socket."""

    pending = crossed = False

    def __init__(self, lender: Lender) -> None:
        self._lender: Lender | None = lender
        self._socket = socket.socket(fileno=os.dup(lender.fileno()))
        self._socket.setblocking(False)

    @property
    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, room: memoryview) -> int:
        _open(self._lender)
        return self._socket.recv_into(room)

    def send(self, data: bytes | memoryview) -> int:
        _open(self._lender)
        return self._socket.send(data)

    def close(self) -> None:
        self._lender = None
        self._socket.close()


class TlsChannel:
    """session: the address of OpenSSL's SSL object."""

    def __init__(self, lender: Lender, session: int) -> None:
        openssl = _libpq()
        assert openssl is not None
        self._openssl = openssl
        self._lender: Lender | None = lender
        self._fd = lender.fileno()
        self._session = session
        self.crossed = False

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
        if reason in {_WANT_READ, _WANT_WRITE}:
            self.crossed = reason == (_WANT_READ if sending else _WANT_WRITE)
            return True
        if reason == _ZERO_RETURN:
            return False
        if reason == _SYSCALL:
            raise ConnectionResetError("the connection was reset, or closed without notice")
        raise ConnectionResetError("the TLS session is broken")

    def _lent(self) -> int:
        _open(self._lender)
        return self._session

    def close(self) -> None:
        """Libpq may free the session from now on."""
        self._lender = None
        self._session = 0


def _session(conn: AsyncConnection) -> int | None:
    """The address of libpq's SSL object. None: there is none of OpenSSL's, or no way to it."""
    library = _libpq()
    if library is None:
        return None
    found: int | None = library.PQsslStruct(cast(Any, conn.pgconn).pgconn_ptr, b"OpenSSL")
    return found


async def ready(channel: Channel, *, send: bool = False) -> None:
    """Wait until `receive` (or, with `send`, `send` or `receive`) may do something."""
    await socket_ready(channel.fileno, read=send or not channel.crossed, write=send != channel.crossed)


async def socket_ready(fd: int, *, read: bool = True, write: bool = False) -> None:
    """Wait until the socket can be read (or, with `write`, read or written)."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    if read:
        loop.add_reader(fd, wake)
    if write:
        loop.add_writer(fd, wake)
    timer = loop.call_later(LOOK_AGAIN_S, wake)
    try:
        await ready
    finally:
        timer.cancel()
        if read:
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
