"""Merge many CopyData messages into one, in place: the hot path of a copy that bypasses libpq.

A server sends one message for each row, and accepts messages of any length. Fewer messages cost the receiving
server less.
"""

from __future__ import annotations

from struct import Struct

HEADER = 5
_COPY_DATA = ord("d")
_header = Struct(">BI")


class FramingError(Exception):
    """The bytes are not messages of the protocol: the reader has lost the message boundaries."""


def join(window: memoryview, rest: int) -> tuple[int, int, int, int]:
    """Merge the complete CopyData messages at the front of `window` into one, after the `rest` bytes of a
    message whose header came earlier. A message that is cut off by the window's end keeps its own header.

    Returns how many bytes of the window were read, how many bytes at its front they occupy now, how many
    messages begin among them, and how many bytes of the last one are still missing. Raises FramingError.
    """
    end = len(window)
    if rest > end:
        return end, end, 0, rest - end
    position = start = here = rest
    joined = 0
    while position + HEADER <= end:
        kind, length = _header.unpack_from(window, position)
        if kind != _COPY_DATA:
            break
        if length < HEADER - 1:
            raise FramingError(f"a CopyData message of length {length}")
        after = position + 1 + length
        if after > end:
            break
        if not joined:
            here += HEADER
        there, size = position + HEADER, length + 1 - HEADER
        if there != here:
            window[here : here + size] = window[there:after]
        here += size
        position = after
        joined += 1
    if joined:
        _header.pack_into(window, start, _COPY_DATA, here - start - 1)
    if position + HEADER <= end and window[position] == _COPY_DATA:
        size = end - position
        window[here : here + size] = window[position:end]
        return end, here + size, joined + 1, after - end
    return position, here, joined, 0
