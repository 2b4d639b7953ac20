"""A message too large to hold comes in fragments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

LONG = 256 << 10
"""Bytes; a longer message comes in fragments."""
FRAGMENT = 128 << 10
HEAD = 64
"""Bytes that the first fragment has at least: enough to tell whose message it is."""


class Fragment(NamedTuple):
    """length: of the whole message, with its first fragment; 0 with those that follow."""

    data: bytes | memoryview
    length: int = 0


def cut(message: bytes | memoryview, size: int = FRAGMENT) -> Iterator[Fragment]:
    """`message` in fragments of `size` bytes."""
    view = memoryview(message)
    at = max(size, HEAD)
    yield Fragment(view[:at], len(view))
    while at < len(view):
        yield Fragment(view[at : at + size])
        at += size
