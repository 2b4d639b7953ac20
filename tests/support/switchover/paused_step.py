"""A coordinator whose first switchover pauses at the beginning of one step, until it is cancelled.

Some steps take a few milliseconds, and nobody outside the coordinator can make them wait. The environment
variable PAUSED_STEP names the step.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.coordinator.__main__ import main
from services.coordinator.operations import switchover
from services.coordinator.operations.switchover_steps import Run
from services.shared.model import StepName


def pause(paused: StepName) -> None:
    step, left = switchover._step, [paused]

    @asynccontextmanager
    async def pausing(run: Run, name: StepName, *, tell_end: bool = True) -> AsyncIterator[None]:
        async with step(run, name, tell_end=tell_end):
            if name in left:
                left.clear()
                await asyncio.Event().wait()
            yield

    switchover._step = pausing


if __name__ == "__main__":
    pause(StepName(os.environ["PAUSED_STEP"]))
    main()
