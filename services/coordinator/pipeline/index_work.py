"""The task that builds indexes while the phases run (services.coordinator.post_data.build)."""

from __future__ import annotations

import asyncio
from typing import Any


class IndexWork:
    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None

    async def stop(self) -> None:
        """End the task. Work that it has not recorded as done is done again later."""
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # reported already
