"""The task that builds indexes beside the phases (services.coordinator.post_data.build)."""

from __future__ import annotations

import asyncio
from typing import Any


class IndexWork:
    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None

    async def stop(self) -> None:
        """End it. What it has not recorded as done is begun again."""
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # reported already
