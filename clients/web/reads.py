"""Reads of one coordinator: few at the same time, and equal ones only once.

Requests without a token must not take every stream of the connection to the coordinator, because commands
need one, nor make it ask both servers as often as they are sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

READS = 4
"""At the same time, of the 16 streams that a connection has."""

T = TypeVar("T")


class Reads:
    """Create it inside a running event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._room = asyncio.Semaphore(READS)
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._kept: dict[Hashable, tuple[float, Any]] = {}

    async def get(self, key: Hashable, read: Callable[[], Awaitable[T]], keep_s: float = 0.0) -> T:
        """What `read` returns, or what another call with this key waits for, or has got in the last `keep_s`
        seconds. Raises what `read` raises; errors are not kept. A call that is cancelled does not cancel the
        others'."""
        now = self._clock()
        self._kept = {one: kept for one, kept in self._kept.items() if kept[0] > now}
        if key in self._kept:
            return cast("T", self._kept[key][1])
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._read(key, read, keep_s), name=f"read {key}")
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return cast("T", await asyncio.shield(task))

    async def _read(self, key: Hashable, read: Callable[[], Awaitable[T]], keep_s: float) -> T:
        async with self._room:
            found = await read()
        if keep_s:
            self._kept[key] = self._clock() + keep_s, found
        return found

    def _ended(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # every call that waited for it may be gone

    async def close(self) -> None:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
