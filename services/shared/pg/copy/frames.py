"""Messages from a server during a COPY: sequences of CopyData messages, and other messages between them.

Sans-I/O. A message is a type byte, a big-endian length that includes itself but not the type, and a body
("Frontend/Backend Protocol", Message Formats). CopyData is the same in both directions. So its bytes are not
parsed, but many messages are merged into one (`row_merge`). Thus a row may be larger than any buffer. The
bodies of other messages are kept up to KEPT bytes: an error may quote a whole row, which is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct

from services.shared.model.compiled import twin_of
from services.shared.pg.copy import row_merge
from services.shared.pg.copy.errors import FramingError
from services.shared.pg.copy.row_merge import HEADER

KEPT = 16 * 1024
"""Bytes of a message's body that are kept. CopyData is not kept at all."""
# All other messages that are allowed while a simple query runs a COPY. After a byte was lost or added, the
# type of the next header is most likely not one of these.
_KINDS = frozenset(b"ACDEGHNSTZcn")
_header = Struct(">BI").unpack_from


@dataclass(slots=True)
class Message:
    """kind: the type byte. body: its first KEPT bytes."""

    kind: str
    body: bytearray = field(default_factory=bytearray)

    def fields(self) -> dict[str, str]:
        """The fields of an ErrorResponse or NoticeResponse: field type ("C": SQLSTATE, "M": message) to text.
        If the body was cut off within a message, the quoted part of the message is left out."""
        *whole, cut = bytes(self.body).split(b"\0")
        if quoting := cut.partition(b'"')[0]:
            whole.append(quoting + b'"..."')
        return {field[:1].decode("latin-1"): field[1:].decode(errors="replace") for field in whole if field}

    @property
    def rows(self) -> int:
        """The row count in the tag of a CommandComplete, such as `COPY 5`."""
        words = bytes(self.body).rstrip(b"\0").split()
        return int(words[-1]) if len(words) == 2 and words[-1].isdigit() else 0


_join: Callable[[memoryview, int], tuple[int, int, int, int]] = twin_of(row_merge).join


class Frames:
    """The reader's position in the stream. frames: number of CopyData messages begun so far. size: bytes of
    COPY data in them so far."""

    def __init__(self) -> None:
        self.frames = 0
        self.size = 0
        self._rest = 0  # bytes of the current CopyData message that are still missing
        self._message: Message | None = None
        self._missing = 0  # bytes of that message's body that are still missing

    def data(self, window: memoryview) -> tuple[int, int]:
        """Merge the CopyData messages at the front of `window`. Returns how many bytes of the window they
        occupied, and how many they occupy after the merge. (0, 0): another message, or an incomplete header,
        comes first."""
        if self._message is not None:
            return 0, 0
        taken, left, frames, self._rest = _join(window, self._rest)
        self.frames += frames
        self.size += taken - HEADER * frames
        return taken, left

    def message(self, window: memoryview) -> tuple[int, Message | None]:
        """Read the message, or a part of it, at the front of `window`, after `data` returned 0. Returns the
        number of bytes read, and the message once it is complete. (0, None): the header is incomplete."""
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
