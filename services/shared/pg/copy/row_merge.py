"""Merge many CopyData messages into one, in place: the hot path of a copy that bypasses libpq.

A server sends one message for each row, and accepts messages of any length. Fewer messages cost the receiving
server less.
"""

from __future__ import annotations

from struct import Struct

from services.shared.model import cython
from services.shared.pg.copy.errors import FramingError

if not cython.compiled:
    _header = Struct(">BI").unpack_from
    _write_header = Struct(">BI").pack_into

    def _move(window: memoryview, to: int, start: int, size: int) -> None:
        window[to : to + size] = window[start : start + size]


HEADER = 5
_COPY_DATA = ord("d")


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
    joined = after = 0
    while position + HEADER <= end:
        kind, length = _header(window, position)
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
            if cython.compiled:
                _move(window, here, there, size)
            else:
                window[here : here + size] = window[there:after]
        here += size
        position = after
        joined += 1
    if joined:
        _write_header(window, start, _COPY_DATA, here - start - 1)
    if position + HEADER <= end and window[position] == _COPY_DATA:
        size = end - position
        _move(window, here, position, size)
        return end, here + size, joined + 1, after - end
    return position, here, joined, 0
