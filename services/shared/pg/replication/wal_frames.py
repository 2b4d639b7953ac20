"""Extract WAL data from what a walsender sends: CopyData messages (`d`, length) that contain XLogData (`w`).

https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import struct
from typing import Any

from services.shared.model import cython
from services.shared.pgoutput.fragments import LONG

if not cython.compiled:
    _header = struct.Struct(">BIB").unpack_from

COPY_DATA, XLOG_DATA = b"dw"
OVERHEAD = 30
"""Bytes before the pgoutput message: type, length; type, start, end, clock."""
LARGEST = LONG + OVERHEAD - 1
"""Greatest length of a CopyData message that is processed as a whole."""


def split(buffer: bytearray, start: int, end: int) -> tuple[list[bytes], int]:
    """The pgoutput messages that are complete in buffer[start:end], up to the first message that is not WAL
    data or is too long; and the position of that message."""
    messages: list[bytes] = []
    if start < 0 or end > len(buffer):
        raise ValueError("beyond the buffer")
    data = buffer  # a pointer, if compiled
    at = start
    while at + OVERHEAD < end:
        kind, length, inner = _header(data, at)
        stop = at + 1 + length
        if kind != COPY_DATA or inner != XLOG_DATA or stop > end or not OVERHEAD <= length <= LARGEST:
            break
        message: Any = data[at + OVERHEAD : stop]  # bytes, if compiled
        messages.append(message if cython.compiled else bytes(message))
        at = stop
    return messages, at
