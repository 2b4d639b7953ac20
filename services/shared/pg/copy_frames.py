"""What a server says on a connection that copies: runs of CopyData, and messages between them.

Sans-I/O. A message is a type byte, a big-endian length that counts itself but not the type, and a
body ("Frontend/Backend Protocol", Message Formats). CopyData looks the same in both directions, so
its bytes are never taken apart: they are measured, and passed on with their headers. A row may thus be
larger than any buffer. The bodies of other messages are kept up to KEPT bytes: an error may
quote a whole row, and nobody wants to see it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct

KEPT = 16 * 1024
"""Bytes of a message's body that are kept, except of CopyData, which is not kept at all."""
HEADER = 5
_COPY_DATA = ord("d")
# Everything else that may come while a simple query runs a COPY, and nothing that may not: after a
# byte lost or gained the next header is most likely none of these.
_KINDS = frozenset(b"ACDEGHNSTZcn")
_header = Struct(">BI").unpack_from


class FramingError(Exception):
    """The bytes are no messages of the protocol: reader and server are out of step."""


@dataclass(slots=True)
class Message:
    """kind: its type byte. body: up to KEPT bytes of it."""

    kind: str
    body: bytearray = field(default_factory=bytearray)

    def fields(self) -> dict[str, str]:
        """Of an ErrorResponse or NoticeResponse: field type ("C": SQLSTATE, "M": message) to text.
        What a message quotes is left out when the body was cut off within it."""
        *whole, cut = bytes(self.body).split(b"\0")
        if quoting := cut.partition(b'"')[0]:
            whole.append(quoting + b'"..."')
        return {field[:1].decode("latin-1"): field[1:].decode(errors="replace") for field in whole if field}

    @property
    def rows(self) -> int:
        """Of a CommandComplete: the count in its tag, `COPY 5`."""
        words = bytes(self.body).rstrip(b"\0").split()
        return int(words[-1]) if len(words) == 2 and words[-1].isdigit() else 0


class Frames:
    """Where the reader stands in the stream. frames: CopyData messages begun so far."""

    def __init__(self) -> None:
        self.frames = 0
        self._rest = 0  # of the CopyData message that is under way
        self._message: Message | None = None
        self._missing = 0  # of that message's body

    def data(self, window: memoryview) -> int:
        """How many bytes at the front of `window` are CopyData. 0: something else, or an
        incomplete header, comes first."""
        end = len(window)
        if self._message is not None:
            return 0
        position, frames, unpack = self._rest, 0, _header
        last = end - HEADER
        while position <= last:
            kind, length = unpack(window, position)
            if kind != _COPY_DATA:
                break
            if length < 4:
                raise FramingError(f"a CopyData message of length {length}")
            position += length + 1
            frames += 1
        self.frames += frames
        self._rest = max(0, position - end)
        return min(position, end)

    def message(self, window: memoryview) -> tuple[int, Message | None]:
        """Take (a piece of) the message at the front of `window`, where `data` gave 0: how many
        bytes were taken, and the message once it is whole. (0, None): the header is incomplete."""
        taken = 0
        if self._message is None:
            if len(window) < HEADER:
                return 0, None
            kind, length = _header(window, 0)
            if kind not in _KINDS or length < 4:
                raise FramingError(f"a message of type {kind} and length {length}")
            self._message, self._missing, taken = Message(chr(kind)), length - 4, HEADER
        message = self._message
        piece = window[taken : taken + self._missing]
        message.body += piece[: KEPT - len(message.body)]
        self._missing -= len(piece)
        taken += len(piece)
        if self._missing:
            return taken, None
        self._message = None
        return taken, message
