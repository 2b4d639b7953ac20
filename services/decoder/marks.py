"""What the publisher has applied of the opposite pipeline, as marks in the change stream.

Two sides that replicate to each other must tell whether a change was made with knowledge of one of the other
side's. The opposite applier's transactions are in the publisher's WAL, in commit order among local ones. They
are dropped, but their commit time, which is that of the transaction they applied, remains as a mark: the next
local transaction carries it, or the next heartbeat. A mark alone is never published, so that two pipelines do
not answer each other for ever.

A mark is a logical message that no source can send: the decoder drops such messages of a source.
"""

from __future__ import annotations

import struct

from services.shared.model import MESSAGE_PREFIX

_U64, _I64 = struct.Struct(">Q"), struct.Struct(">q")
_HEADER = struct.Struct(">cBQ")
_EPOCH_US = 946_684_800_000_000
"""PostgreSQL's epoch, 2000-01-01, in microseconds since the Unix epoch."""
_COMMIT_TIME = 9
_ORIGIN_NAME = 9
_CONTENT = b"seen "
_PREFIX = MESSAGE_PREFIX.encode() + b"\0"
_HEAD = 10


class Marks:
    """origin: the name of the opposite pipeline's origin; "" if no marks are wanted. Times are microseconds
    since the Unix epoch."""

    def __init__(self, origin: str) -> None:
        self._origin = origin.encode() + b"\0" if origin else b""
        self._current = 0  # commit time of the current transaction, if it is the opposite applier's
        self._sent = 0
        self.seen = 0

    @property
    def due(self) -> bool:
        """Whether the next local transaction must carry a mark."""
        return self.seen > self._sent

    def begin(self, begin: bytes | memoryview, origin: bytes) -> None:
        """A transaction with an origin has begun."""
        ours = bool(self._origin) and origin[_ORIGIN_NAME:] == self._origin
        self._current = _I64.unpack_from(begin, _COMMIT_TIME)[0] + _EPOCH_US if ours else 0

    def commit(self) -> None:
        """It has been committed."""
        self.seen = max(self.seen, self._current)
        self._current = 0

    def message(self) -> bytes:
        """The mark that is due."""
        self._sent = self.seen
        content = _CONTENT + b"%d" % self.seen
        return _HEADER.pack(b"M", 1, 0) + _PREFIX + struct.pack(">I", len(content)) + content

    def heartbeat(self) -> int:
        """For a heartbeat; 0 if nothing is known."""
        self._sent = self.seen
        return self.seen


def is_mark(message: bytes) -> bool:
    """Whether a logical message has the form of a mark."""
    return message.startswith(_PREFIX, _HEAD) and message.startswith(_CONTENT, _HEAD + len(_PREFIX) + 4)
