"""A message too large to hold comes in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

LONG = 256 << 10
"""Bytes; a longer message comes in pieces."""
PIECE = 128 << 10
HEAD = 64
"""Bytes that the first piece has at least: enough to tell whose message it is."""


class Piece(NamedTuple):
    """length: of the whole message, with its first piece; 0 with those that follow."""

    data: bytes | memoryview
    length: int = 0


def cut(message: bytes | memoryview, size: int = PIECE) -> Iterator[Piece]:
    """`message` in pieces of `size` bytes."""
    view = memoryview(message)
    at = max(size, HEAD)
    yield Piece(view[:at], len(view))
    while at < len(view):
        yield Piece(view[at : at + size])
        at += size
