"""Waiting for a change: any number of tasks wait, and one announcement wakes all that wait then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Of one thing. Everything happens in one event loop, so nobody misses what changes between a look at
    that thing and the wait."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def announce(self) -> None:
        """Wake whoever waits now; who waits afterwards waits for the next change."""
        waiting, self._next = self._next, asyncio.Event()
        waiting.set()

    async def wait(self) -> None:
        """Return after the next change."""
        await self._next.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; it is looked at after every change."""
        while not condition():
            await self._next.wait()
