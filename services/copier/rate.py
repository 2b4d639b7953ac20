"""The speed limit of a copier: `max_rate`, for all loops of an assignment together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

BURST_S = 0.2
"""Bandwidth that was not used within this time is lost, so that there is no burst after an idle hour."""


class RateLimit:
    """Limits the average to `rate` bytes per second; 0: no limit."""

    def __init__(
        self,
        rate: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._paid_until = 0.0

    async def __call__(self, size: int) -> None:
        """Wait until `size` more bytes may be sent."""
        if not self._rate:
            return
        now = self._clock()
        self._paid_until = max(self._paid_until, now - BURST_S) + size / self._rate
        if self._paid_until > now:
            await self._sleep(self._paid_until - now)
