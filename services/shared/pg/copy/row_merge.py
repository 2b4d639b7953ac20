"""Many CopyData messages made one, in place: the hot path of a copy that passes libpq by.

A server sends one for each row, and takes them of any length. The fewer it gets, the less it costs it
to take rows in.
"""

from __future__ import annotations

from struct import Struct

HEADER = 5
_COPY_DATA = ord("d")
_header = Struct(">BI")


class FramingError(Exception):
    """The bytes are no messages of the protocol: reader and server are out of step."""


def join(window: memoryview, rest: int) -> tuple[int, int, int, int]:
    """Make the CopyData messages that lie wholly at the front of `window` one, behind the `rest` bytes
    of a message whose header has gone before. One that is cut off by the window's end keeps its header.

    Returns how many bytes of the window were looked at, in how many at its front they lie now, how many
    messages begin among them, and how much of the last one is still to come. Raises FramingError.
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
