"""A worker process that does nothing until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from services.shared.runtime.config import ServiceSettings
from services.shared.runtime.lifecycle import run_service

log = logging.getLogger(__name__)


async def idle(_settings: ServiceSettings, stop: asyncio.Event) -> None:
    log.info("ready, with %s", sorted(name for name in os.environ if name.endswith("_URI")))
    await stop.wait()


def main() -> None:
    sys.exit(run_service("worker", idle))


if __name__ == "__main__":
    main()
