"""Async iterators that end: at once when somebody asks for it, and never half open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close `items` at the block's end if it can be closed, as async generators can."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def until(stop: asyncio.Event, items: AsyncIterator[T]) -> AsyncIterator[T]:
    """What `items` yields, until it ends or `stop` is set. An item that is there is not lost."""
    stopped = asyncio.create_task(stop.wait(), name="until-stop")
    following: asyncio.Task[T] | None = None
    try:
        while True:
            following = asyncio.create_task(_next(items), name="until-next")
            await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            try:
                item = following.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        waiting = [task for task in (following, stopped) if task is not None and not task.done()]
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)
