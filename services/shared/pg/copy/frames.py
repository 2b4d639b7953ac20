"""What a server says on a connection that copies: runs of CopyData, and messages between them.

Sans-I/O. A message is a type byte, a big-endian length that counts itself but not the type, and a
body ("Frontend/Backend Protocol", Message Formats). CopyData looks the same in both directions, so
its bytes are never taken apart, but for many messages made one (`copy_runs`). A row may thus be
larger than any buffer. The bodies of other messages are kept up to KEPT bytes: an error may
quote a whole row, and nobody wants to see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct

from services.shared.model.compiled import twin_of
from services.shared.pg.copy import row_merge as copy_runs
from services.shared.pg.copy.row_merge import HEADER, FramingError

KEPT = 16 * 1024
"""Bytes of a message's body that are kept, except of CopyData, which is not kept at all."""
# Everything else that may come while a simple query runs a COPY, and nothing that may not: after a
# byte lost or gained the next header is most likely none of these.
_KINDS = frozenset(b"ACDEGHNSTZcn")
_header = Struct(">BI").unpack_from


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


_join: Callable[[memoryview, int], tuple[int, int, int, int]] = twin_of(copy_runs).join


class Frames:
    """Where the reader stands in the stream. frames: CopyData messages begun so far. size: bytes of
    COPY data in them so far."""

    def __init__(self) -> None:
        self.frames = 0
        self.size = 0
        self._rest = 0  # of the CopyData message that is under way
        self._message: Message | None = None
        self._missing = 0  # of that message's body

    def data(self, window: memoryview) -> tuple[int, int]:
        """How many bytes at the front of `window` are CopyData, and how many are so now that messages
        were joined. (0, 0): something else, or an incomplete header, comes first."""
        if self._message is not None:
            return 0, 0
        taken, left, frames, self._rest = _join(window, self._rest)
        self.frames += frames
        self.size += taken - HEADER * frames
        return taken, left

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
