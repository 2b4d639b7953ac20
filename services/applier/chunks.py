"""The queue between reading and writing: bounded by bytes, so a slow destination stops the reader."""

from __future__ import annotations

import asyncio
from collections import deque

from services.applier.planner import Chunk

CAPACITY_BYTES = 16 << 20
CHUNK_OVERHEAD = 500
STEP_OVERHEAD = 300
"""Estimates (bytes) of what the objects cost beside the values."""


def weight(chunk: Chunk) -> int:
    """What a chunk holds in memory, in bytes, roughly."""
    return CHUNK_OVERHEAD + chunk.bytes + STEP_OVERHEAD * len(chunk.steps)


class ChunkQueue:
    """One reader, one writer. One chunk always fits, however large."""

    def __init__(self, capacity: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self._changed = asyncio.Condition()

    @property
    def empty(self) -> bool:
        return not self._chunks

    async def put(self, chunk: Chunk) -> None:
        async with self._changed:
            size = weight(chunk)
            await self._changed.wait_for(lambda: not self._chunks or self._bytes + size <= self._capacity)
            self._chunks.append(chunk)
            self._bytes += size
            self._changed.notify_all()

    async def get(self, timeout: float | None = None) -> Chunk | None:
        """The oldest chunk; None after `timeout` seconds without one."""
        async with self._changed:
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(lambda: bool(self._chunks))
            except TimeoutError:
                return None
            chunk = self._chunks.popleft()
            self._bytes -= weight(chunk)
            self._changed.notify_all()
            return chunk
