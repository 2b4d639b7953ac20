"""Waiting for a change: any number of tasks wait, and one announcement wakes all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """The changes of one object. Everything runs in one event loop, so no task misses a change between
    reading the object and waiting."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def announce(self) -> None:
        """Wake all tasks that are waiting now. Tasks that wait later wait for the next change."""
        waiting, self._next = self._next, asyncio.Event()
        waiting.set()

    async def wait(self) -> None:
        """Return after the next change."""
        await self._next.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` is true. It is evaluated at once and after every change."""
        while not condition():
            await self._next.wait()
