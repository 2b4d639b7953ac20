"""A feed that is stopped while a WebSocket still shows the migration."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from clients.web.feeds import Feed
from clients.web.limits import DEFAULT_LIMITS
from services.shared.model import MigrationId


class Hung:
    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def find(self, migration_id: MigrationId) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def test_who_waits_for_a_feed_that_is_stopped_learns_of_its_end() -> None:
    hung = Hung()
    feed = Feed(MigrationId.parse("m"), cast("Any", hung), DEFAULT_LIMITS)
    running = asyncio.create_task(feed.run())
    waiting = asyncio.create_task(feed.beyond(0))
    await hung.asked.wait()
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    async with asyncio.timeout(30):
        await waiting
    assert feed.ending is not None
