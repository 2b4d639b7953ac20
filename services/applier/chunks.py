"""The queue between reading and writing. It is bounded by bytes, so a slow destination stops the reader.

A chunk that alone exceeds the bound contains a row of many megabytes. Parts of it are copied again while
they are sent, so nothing is read after it until it is written.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from services.applier.planner import Chunk

CAPACITY_BYTES = 8 << 20
CHUNK_OVERHEAD = 500
STEP_OVERHEAD = 300
"""Estimates (bytes) of the memory for the objects in addition to the values."""


def weight(chunk: Chunk) -> int:
    """The approximate memory that a chunk uses, in bytes."""
    return CHUNK_OVERHEAD + chunk.bytes + STEP_OVERHEAD * len(chunk.steps)


class ChunkQueue:
    """One reader, one writer. A single chunk always fits, even if it is larger than the capacity."""

    def __init__(self, capacity: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity
        self._chunks: list[Chunk] = []
        self._bytes = 0
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()
        self._written = asyncio.Event()
        self._put = self._given = self._done = 0  # chunks so far: put in, taken, written

    @property
    def empty(self) -> bool:
        return not self._chunks

    async def put_all(self, chunks: list[Chunk]) -> None:
        """`put` each chunk. No chunk is referenced afterwards, because one may be large."""
        for chunk in chunks:
            await self.put(chunk)

    async def put(self, chunk: Chunk) -> None:
        """Wait until there is space. If the chunk exceeds the capacity, wait until it is written."""
        size = weight(chunk)
        while self._chunks and self._bytes + size > self._capacity:
            self._taken.clear()
            await self._taken.wait()
        self._chunks.append(chunk)
        self._bytes += size
        self._filled.set()
        self._put += 1
        number = self._put
        while size > self._capacity and self._done < number:
            self._written.clear()
            await self._written.wait()

    async def get(self, timeout: float | None = None) -> list[Chunk]:
        """All chunks in the queue, oldest first; an empty list after `timeout` seconds without a chunk. The
        caller must have written the chunks that were returned before."""
        self._done = self._given
        self._written.set()
        if not self._chunks:
            self._filled.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._filled.wait()
        chunks, self._chunks, self._bytes = self._chunks, [], 0
        self._given += len(chunks)
        self._taken.set()
        return chunks
