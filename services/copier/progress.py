"""How often the progress of a part is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

INTERVAL_S = 0.5


class Throttle:
    """Reports the newest rows and bytes every `interval_s` if they have changed. A part that is done
    within that time is not reported. A context manager, to be called within the block."""

    def __init__(self, pass_on: Callable[[int, int], None], interval_s: float = INTERVAL_S) -> None:
        self._pass_on = pass_on
        self._interval_s = interval_s
        self._newest = (0, 0)
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def __call__(self, rows: int, size: int) -> None:
        self._newest = (rows, size)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._pass_on(*self._newest)
