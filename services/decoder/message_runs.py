"""Adding runs of transactions and row changes to a batch: the hot path of the decoder."""

from __future__ import annotations

import struct
from typing import Any

from services.shared.model import cython

if not cython.compiled:
    _oid = struct.Struct(">I").unpack_from
    _lsn = struct.Struct(">Q").unpack_from
    _header = struct.Struct(">I").pack

_BEGIN, _COMMIT, _INSERT, _UPDATE, _DELETE = b"BCIUD"
_BEGIN_SIZE, _COMMIT_SIZE = 21, 26


def collect(  # noqa: PLR0917 (Cython compiles no keyword-only parameters here)
    messages: list[Any],
    start: int,
    known: set[bytes],
    chunks: list[bytes | memoryview],
    room: int,
    floor: int,
    inside: bool,
) -> tuple[int, int, bool, int]:
    """Append the frames of messages from `start` on to `chunks`, until `room` bytes are filled or
    a message is neither Begin nor Commit nor a change of a `known` relation.

    floor: an LSN; a transaction that commits before it is not added. inside: whether `start` is inside
    a transaction. Returns the position of the first message that was not added, the number of added bytes,
    whether that position is inside a transaction, and where the last transaction ended (0: none did).
    """
    size, at, ended, last = 0, start, 0, -1
    while at < len(messages) and size < room:
        item = messages[at]
        if type(item) is not bytes:
            break
        message = item
        data = message  # a pointer, if compiled
        length = len(message)
        if length < 5:
            break
        kind = data[0]
        if kind in (_INSERT, _UPDATE, _DELETE):
            (oid,) = _oid(data, 1)
            if not inside or (oid != last and data[1:5] not in known):
                break
            last = oid
        elif kind == _BEGIN:
            if inside or length != _BEGIN_SIZE or _lsn(data, 1)[0] < floor:
                break
            inside = True
        elif kind == _COMMIT:
            if not inside or length != _COMMIT_SIZE:
                break
            inside = False
            (ended,) = _lsn(data, 10)
        else:
            break
        chunks.append(_header(length))
        chunks.append(message)
        size += length + 4
        at += 1
    return at, size, inside, ended
