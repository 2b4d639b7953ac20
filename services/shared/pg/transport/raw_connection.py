"""The channel between libpq and a server, used without libpq for a time: its socket or its TLS session.

libpq stores each row or message twice and returns them one at a time. Code that transfers many or large ones
bypasses libpq and reads and writes the bytes of the protocol itself. During that time the connection is idle
for libpq: libpq has read everything that the server sent. libpq is not used until all answers to these
requests have been read.

If libpq encrypts with OpenSSL, the channel calls `SSL_read` and `SSL_write` of the library that libpq is
linked with, on libpq's TLS session. The session is unchanged: libpq has checked the certificate and bound the
login to it. Each write is one TLS record, because a write that must be retried has to pass the same bytes
again. A connection with Kerberos encryption has no channel.

A channel holds a reference to its connection, because libpq frees the TLS session together with it. Before
each use the channel checks that the connection is open: after it is closed, the session's address is invalid.

No function of a channel waits. A TLS session may have to write before it can read, or read before it can
write. Then `crossed` is true, and `ready` waits for the right direction.
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
"""Maximum number of bytes in a TLS record."""
_WANT_READ, _WANT_WRITE, _SYSCALL, _ZERO_RETURN = 2, 3, 5, 6  # SSL_get_error(3)

LOOK_AGAIN_S = 1.0
"""Seconds after which to look again: TLS may hold received bytes that the socket no longer reports."""


class Channel(Protocol):
    """Never waits: raises BlockingIOError when it would have to wait, and another OSError when the connection
    is lost."""

    @property
    def fileno(self) -> int: ...

    @property
    def pending(self) -> bool:
        """Whether there is more to receive although the socket may not be readable."""
        ...

    @property
    def crossed(self) -> bool:
        """Whether the last call that would have had to wait needs the other direction of the socket: whether
        a `receive` needs it to be writable, or a `send` needs it to be readable."""
        ...

    def receive(self, room: memoryview) -> int:
        """Receive bytes into the front of `room`. Returns their number, 0 at the end of the connection."""
        ...

    def send(self, data: bytes | memoryview) -> int:
        """Return how many bytes of the front were sent. The rest must be passed again, unchanged. A closed
        connection may be noticed only by `receive`."""
        ...

    def close(self) -> None:
        """Return the channel to its connection."""
        ...


def has_channel(conn: AsyncConnection) -> bool:
    """Whether the channel can be used. Kerberos encryption is not detected: libpq does not report it."""
    return not conn.pgconn.ssl_in_use or _session(conn) is not None


def open_channel(conn: AsyncConnection) -> Channel:
    """The channel of an idle connection for which `has_channel` is true."""
    if not conn.pgconn.ssl_in_use:
        return PlainChannel(conn)
    session = _session(conn)
    assert session is not None
    return TlsChannel(conn, session)


class ChannelOwner(Protocol):
    """What a channel needs from its connection. An AsyncConnection is one."""

    @property
    def closed(self) -> bool: ...

    def fileno(self) -> int: ...


def _check_open(owner: ChannelOwner | None) -> None:
    """Raise OSError if the channel or its connection is closed."""
    if owner is None:
        raise OSError(errno.EBADF, "the channel was closed")
    if owner.closed:
        raise OSError(errno.EBADF, "the connection was closed while its channel was in use")


class PlainChannel:
    """A channel without TLS. It duplicates the descriptor of the connection's socket."""

    pending = crossed = False

    def __init__(self, owner: ChannelOwner) -> None:
        self._owner: ChannelOwner | None = owner
        self._socket = socket.socket(fileno=os.dup(owner.fileno()))
        self._socket.setblocking(False)

    @property
    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, room: memoryview) -> int:
        _check_open(self._owner)
        return self._socket.recv_into(room)

    def send(self, data: bytes | memoryview) -> int:
        _check_open(self._owner)
        return self._socket.send(data)

    def close(self) -> None:
        self._owner = None
        self._socket.close()


class TlsChannel:
    """session: the address of OpenSSL's SSL object."""

    def __init__(self, owner: ChannelOwner, session: int) -> None:
        openssl = _libpq()
        assert openssl is not None
        self._openssl = openssl
        self._owner: ChannelOwner | None = owner
        self._fd = owner.fileno()
        self._session = session
        self.crossed = False

    @property
    def fileno(self) -> int:
        return self._fd

    @property
    def pending(self) -> bool:
        return bool(self._openssl.SSL_pending(self._usable_session()))

    def receive(self, room: memoryview) -> int:
        """Receive all records that have arrived, as far as there is room."""
        base = ctypes.addressof(ctypes.c_char.from_buffer(room)) if room else 0
        received = 0
        while received < len(room):
            self._openssl.ERR_clear_error()
            count = self._openssl.SSL_read(self._usable_session(), base + received, len(room) - received)
            if count > 0:
                received += count
            elif received:
                break  # the next call reports the end or the error
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
            count = self._openssl.SSL_write(self._usable_session(), record, len(record))
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
        """Find out why a call transferred nothing. True: wait. False: end of the session. Raises OSError."""
        reason = self._openssl.SSL_get_error(self._usable_session(), result)
        self._openssl.ERR_clear_error()  # other code in this thread reads the same error queue
        if reason in {_WANT_READ, _WANT_WRITE}:
            self.crossed = reason == (_WANT_READ if sending else _WANT_WRITE)
            return True
        if reason == _ZERO_RETURN:
            return False
        if reason == _SYSCALL:
            raise ConnectionResetError("the connection was reset, or closed without notice")
        raise ConnectionResetError("the TLS session is broken")

    def _usable_session(self) -> int:
        _check_open(self._owner)
        return self._session

    def close(self) -> None:
        """Libpq may free the session from now on."""
        self._owner = None
        self._session = 0


def _session(conn: AsyncConnection) -> int | None:
    """The address of libpq's SSL object. None: it has none of OpenSSL's, or the function is not available."""
    library = _libpq()
    if library is None:
        return None
    found: int | None = library.PQsslStruct(cast(Any, conn.pgconn).pgconn_ptr, b"OpenSSL")
    return found


async def ready(channel: Channel, *, send: bool = False) -> None:
    """Wait until `receive` can progress or, with `send`, `send` or `receive`."""
    await socket_ready(channel.fileno, read=send or not channel.crossed, write=send != channel.crossed)


async def socket_ready(fd: int, *, read: bool = True, write: bool = False) -> None:
    """Wait until the socket is readable or, with `write`, readable or writable. Ends after LOOK_AGAIN_S at
    the latest."""
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
    """The libpq that psycopg uses. Its symbols include those of the OpenSSL that it is linked with."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    names = {line.split(maxsplit=5)[-1] for line in mapped.splitlines() if "/libpq" in line}
    paths = [name for name in names if Path(name).name.startswith(("libpq.so", "libpq-"))]
    if len(paths) != 1:
        return None  # unclear which one made the connection
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
