"""Reports the steps of a switchover to its operation, where any number of clients watch them."""

from __future__ import annotations

import asyncio
import time

from services.coordinator.migration.state import Migration
from services.shared.model import (
    Failure,
    OperationState,
    StepName,
    StepState,
    SwitchoverResult,
    SwitchoverStep,
)


class StepFeed:
    """operation_id: of the operation that runs; "" if none does. blocked_at: time.monotonic() when writes to
    the source were blocked; 0.0: they are not blocked. deciding: the decision is being stored, so the
    switchover cannot be cancelled any more. leave: set when the coordinator ends, or the migration is cleaned
    up: what has to be done after the decision is left to the next coordinator."""

    def __init__(self, migration: Migration, operation_id: str) -> None:
        self._migration = migration
        self._operation_id = operation_id
        self.blocked_at = 0.0
        self.deciding = False
        self.leave = asyncio.Event()

    def elapsed_ms(self) -> int:
        return int((time.monotonic() - self.blocked_at) * 1000) if self.blocked_at else 0

    def tell(self, name: StepName, state: StepState, detail: str = "") -> None:
        self._migration.operations.step(self._operation_id, self._step(name, state, detail))

    def failing(self, failure: Failure) -> None:
        """failure: why it fails, or is rolled back."""
        self._migration.operations.failing(self._operation_id, failure)

    def succeeded(self, result: SwitchoverResult) -> None:
        """The operation ends."""
        step = self._step(StepName.COMMIT, StepState.DONE, "", result)
        self._migration.operations.ended(self._operation_id, OperationState.SUCCEEDED, step, result)

    def undone(self, end: OperationState) -> None:
        """The operation ends, and the source accepts writes."""
        self._migration.operations.ended(
            self._operation_id, end, self._step(StepName.ROLLBACK, StepState.DONE)
        )
        self.blocked_at = 0.0

    def left(self, failure: Failure) -> None:
        """The operation ends here: another coordinator undoes it. failure: why."""
        step = self._step(StepName.ROLLBACK, StepState.FAILED, failure.message)
        self._migration.operations.ended(self._operation_id, OperationState.FAILED, step)

    def _step(
        self, name: StepName, state: StepState, detail: str = "", result: SwitchoverResult | None = None
    ) -> SwitchoverStep:
        return SwitchoverStep(name, state, detail, self.elapsed_ms(), result)
