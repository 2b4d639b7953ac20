"""Splitting a payload into its frames: u32 big-endian length, message."""

from __future__ import annotations

import struct

_LENGTH = struct.Struct(">I")
HEADER = _LENGTH.size


def split(payload: bytes, at: int) -> tuple[list[bytes], int]:
    """The complete messages in `payload` from `at` on, and where the first incomplete one begins."""
    messages: list[bytes] = []
    size = len(payload)
    while at + HEADER <= size:
        start = at + HEADER
        end = start + _LENGTH.unpack_from(payload, at)[0]
        if end > size:
            break
        messages.append(payload[start:end])
        at = end
    return messages, at
