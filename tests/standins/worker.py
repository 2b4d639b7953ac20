"""A worker process that does nothing until it is stopped."""

from __future__ import annotations

import asyncio
import sys

from services.shared.runtime.config import ServiceSettings
from services.shared.runtime.lifecycle import run_service


async def idle(_settings: ServiceSettings, stop: asyncio.Event) -> None:
    await stop.wait()


if __name__ == "__main__":
    sys.exit(run_service("worker", idle))
