"""Fragments of messages that are too large to hold in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

LONG = 256 << 10
"""Bytes; a longer message is split into fragments."""
FRAGMENT = 128 << 10
HEAD = 64
"""The least size of the first fragment in bytes: enough to know which relation the message changes."""


class Fragment(NamedTuple):
    """length: of the whole message in its first fragment; 0 in the others."""

    data: bytes | memoryview
    length: int = 0


def cut(message: bytes | memoryview, size: int = FRAGMENT) -> Iterator[Fragment]:
    """Split `message` into fragments of `size` bytes."""
    view = memoryview(message)
    at = max(size, HEAD)
    yield Fragment(view[:at], len(view))
    while at < len(view):
        yield Fragment(view[at : at + size])
        at += size
