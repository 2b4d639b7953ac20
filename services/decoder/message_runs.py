"""Adding runs of transactions and row changes to a batch: the hot path of the decoder."""

from __future__ import annotations

import struct
from collections.abc import Container, Sequence

_LENGTH = struct.Struct(">I")
_LSN = struct.Struct(">Q")
_BEGIN, _COMMIT = b"BC"
_BEGIN_SIZE, _COMMIT_SIZE = 21, 26
_ROW_CHANGES = frozenset(b"IUD")


def collect(
    messages: Sequence[object],
    start: int,
    known: Container[bytes],
    chunks: list[bytes | memoryview],
    room: int,
    *,
    floor: int,
    inside: bool,
) -> tuple[int, int, bool, int]:
    """Append the frames of messages from `start` on to `chunks`, until `room` bytes are filled or
    a message is neither Begin nor Commit nor a change of a `known` relation.

    floor: an LSN; a transaction that commits before it is not added. inside: whether `start` is inside
    a transaction. Returns the position of the first message that was not added, the number of added bytes,
    whether that position is inside a transaction, and where the last transaction ended (0: none did).
    """
    size, at, ended = 0, start, 0
    while at < len(messages) and size < room:
        message = messages[at]
        if type(message) is not bytes or len(message) < 5:
            break
        kind = message[0]
        if kind in _ROW_CHANGES:
            if not inside or message[1:5] not in known:
                break
        elif kind == _BEGIN:
            if inside or len(message) != _BEGIN_SIZE or _LSN.unpack_from(message, 1)[0] < floor:
                break
            inside = True
        elif kind == _COMMIT:
            if not inside or len(message) != _COMMIT_SIZE:
                break
            inside = False
            (ended,) = _LSN.unpack_from(message, 10)
        else:
            break
        chunks += (_LENGTH.pack(len(message)), message)
        size += len(message) + 4
        at += 1
    return at, size, inside, ended
