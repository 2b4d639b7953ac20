"""The steps of one switchover. Any number of clients can read them, each from the first step."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from services.shared.model import (
    PgmigError,
    StepName,
    StepState,
    SwitchoverResult,
    SwitchoverStep,
)
from services.shared.runtime.changes import Changes


class StepFeed:
    def __init__(self) -> None:
        self._steps: list[SwitchoverStep] = []
        self._changes = Changes()
        self._ended = False
        self._error: PgmigError | None = None
        self.blocked_at = 0.0
        """time.monotonic() when writes to the source were blocked; 0.0: they are not blocked."""

    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self.blocked_at) * 1000) if self.blocked_at else 0

    def tell(
        self, name: StepName, state: StepState, detail: str = "", result: SwitchoverResult | None = None
    ) -> None:
        self._steps.append(SwitchoverStep(name, state, detail, self.elapsed_ms(), result))
        self._changes.announce()

    def end(self, error: PgmigError | None = None) -> None:
        """No more steps are added. error: why the switchover was rolled back; `read` raises it."""
        self._ended, self._error = True, error
        self._changes.announce()

    async def read(self) -> AsyncIterator[SwitchoverStep]:
        """Yield every step, then raise the error, if there was one."""
        told = 0
        while True:
            while told < len(self._steps):
                yield self._steps[told]
                told += 1
            if self._ended:
                break
            await self._changes.wait()
        if self._error is not None:
            raise self._error
