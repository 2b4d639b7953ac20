"""Async iterators that end at once when requested, and are always closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close `items` at the end of the block if it can be closed, as async generators can."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def until(stop: asyncio.Event, items: AsyncIterator[T]) -> AsyncIterator[T]:
    """What `items` yields, until it ends or `stop` is set. An item that has arrived is not lost."""
    stopped = asyncio.create_task(stop.wait(), name="until-stop")
    try:
        while True:
            following = asyncio.create_task(_next(items), name="until-next")
            try:
                await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _end(following)
            if following.cancelled() or not (item := following.result()):
                return
            yield item[0]
    finally:
        stopped.cancel()


async def _next(items: AsyncIterator[T]) -> tuple[T] | None:
    """The next item in a tuple; None at the end, because a task cannot raise StopAsyncIteration."""
    async for item in items:
        return (item,)
    return None


async def _end(task: asyncio.Task[tuple[T] | None]) -> None:
    """End a task that still runs, and read its exception, which nobody else may read."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
