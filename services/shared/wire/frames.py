"""Splitting a payload into its frames: u32 big-endian length, message."""

from __future__ import annotations

import struct

from services.shared.model import cython

if not cython.compiled:
    _length = struct.Struct(">I").unpack_from

HEADER = 4


def split(payload: bytes, at: int) -> tuple[list[bytes], int]:
    """The complete messages in `payload` from `at` on, and where the first incomplete one begins."""
    messages: list[bytes] = []
    data = payload  # a pointer, if compiled
    size = len(payload)
    while at + HEADER <= size:
        (length,) = _length(data, at)
        start = at + HEADER
        end = start + length
        if end > size:
            break
        messages.append(data[start:end])
        at = end
    return messages, at
