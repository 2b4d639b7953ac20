"""Taking runs of row changes into a batch: the hot path of the decoder."""

from __future__ import annotations

import struct
from collections.abc import Container, Sequence

_LENGTH = struct.Struct(">I")
_ROW_CHANGES = frozenset(b"IUD")


def absorb(
    messages: Sequence[object],
    start: int,
    known: Container[bytes],
    chunks: list[bytes | memoryview],
    room: int,
) -> tuple[int, int]:
    """Append the frames of row changes from `start` on to `chunks`, until `room` bytes are filled or
    something else comes: another message, or a change of a relation that is not `known`. Returns the
    position of the first message not taken, and the bytes that were added."""
    size, at = 0, start
    while at < len(messages) and size < room:
        message = messages[at]
        if type(message) is not bytes or len(message) < 5:
            break
        if message[0] not in _ROW_CHANGES or message[1:5] not in known:
            break
        chunks += (_LENGTH.pack(len(message)), message)
        size += len(message) + 4
        at += 1
    return at, size
