"""What a walsender sends, and the interface of a stream of it.

`raw_wal_stream` bypasses libpq. `libpq_wal_stream` is for connections whose channel libpq does not share.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pgoutput.fragments import Fragment

DOING = "streaming changes from the source"
_KEEPALIVE = struct.Struct(">cqqc")


@dataclass(frozen=True, slots=True)
class Keepalive:
    """wal_end: the walsender has sent everything before this position that belongs to the stream."""

    wal_end: Lsn
    reply_requested: bool


Item = bytes | Fragment | Keepalive
"""A pgoutput message, a fragment of a long one, or a keepalive."""


class WalStream(Protocol):
    """A replication stream that has started."""

    @property
    def fileno(self) -> int: ...

    @property
    def pending(self) -> bool:
        """Whether more can be drained although the socket may not be readable."""
        ...

    @property
    def must_write(self) -> bool:
        """Whether the socket must be written to before more can be drained."""
        ...

    def drain(self) -> tuple[list[Item], int]:
        """The items that have arrived, and their number of bytes. Does not wait. Raises PgmigError when
        streaming has ended."""
        ...

    def send(self, payload: bytes) -> None:
        """Send one message without waiting."""
        ...

    def close(self) -> None: ...


def read_keepalive(message: bytes) -> Keepalive:
    """Parse a raw keepalive (`k`) message."""
    try:
        _, wal_end, _, reply = _KEEPALIVE.unpack(message)
    except struct.error as exc:
        raise unexpected_message(message[0]) from exc
    return Keepalive(Lsn(wal_end), reply == b"\x01")


def stream_ended() -> PgmigError:
    return PgmigError(ErrorKind.TRANSIENT, "the source ended the replication stream")


def unexpected_message(kind: int) -> PgmigError:
    return PgmigError(ErrorKind.TRANSIENT, f"{DOING}: the source sent a message of type {chr(kind)!r}")
