"""The operations of a migration in its record: the current one, and the last ones that have ended.

They are kept as a tuple, the oldest first. The last one is the current one until it has ended. A change of
state is checked against the table of transitions in `services.shared.model`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from services.shared.model import (
    ErrorKind,
    Failure,
    Operation,
    OperationKind,
    OperationState,
    PgmigError,
    SwitchoverResult,
    SwitchoverStep,
    check_operation_move,
)

KEPT = 10

Operations = tuple[Operation, ...]


def current(operations: Operations) -> Operation | None:
    """The operation that has not ended."""
    last = operations[-1] if operations else None
    return None if last is None or last.state.ended else last


def begun(operations: Operations, operation: Operation) -> Operations:
    """With a new operation. Raises WRONG_PHASE if another one has not ended."""
    if (other := current(operations)) is not None:
        raise PgmigError(
            ErrorKind.WRONG_PHASE,
            f"operation {other.operation_id} of migration {other.migration_id} is {other.state}",
            f"watch it or cancel it: `pgmig-cli switchover --id {other.migration_id} --attach` or `--cancel`",
        )
    return (*operations[1 - KEPT :], operation)


def with_step(operations: Operations, step: SwitchoverStep) -> Operations:
    """With one more step of the last operation."""
    return changed(operations, steps=(*operations[-1].steps, step))


def changed(operations: Operations, **changes: Any) -> Operations:
    """With other fields of the last operation."""
    return (*operations[:-1], replace(operations[-1], **changes))


def moved(operations: Operations, state: OperationState, now: float, **changes: Any) -> Operations:
    """With the current operation in another state. Without a current operation, nothing is changed. now:
    Unix seconds. Raises WRONG_PHASE."""
    operation = current(operations)
    if operation is None or operation.state is state:
        return operations
    check_operation_move(operation.state, state)
    finished = now if state.ended else 0.0
    return changed(operations, state=state, state_since=now, finished_at=finished, **changes)


class OperationLog:
    """The operations of one migration. Each change is a method that says what has happened.

    read, write: of the record. clock: Unix seconds.
    """

    def __init__(
        self,
        read: Callable[[], Operations],
        write: Callable[[Operations], None],
        clock: Callable[[], float],
    ) -> None:
        self._read, self._write, self._clock = read, write, clock

    @property
    def current(self) -> Operation | None:
        """The operation that has not ended."""
        return current(self._read())

    @property
    def kind(self) -> OperationKind:
        """Of the last operation."""
        operations = self._read()
        return operations[-1].kind if operations else OperationKind.SWITCHOVER

    def found(self, operation_id: str) -> Operation | None:
        return next((one for one in self._read() if one.operation_id == operation_id), None)

    def requested(self, request_id: str) -> Operation | None:
        return next((one for one in self._read() if one.request_id == request_id), None)

    def began(self, operation: Operation) -> Operation:
        """Raises WRONG_PHASE if another one has not ended."""
        now = self._clock()
        operation = replace(operation, state_since=now, started_at=now)
        self._write(begun(self._read(), operation))
        return operation

    def ready(self) -> None:
        """It is prepared, and waits until an operator lets it proceed."""
        self._write(moved(self._read(), OperationState.READY, self._clock()))

    def proceeds(self) -> None:
        """An operator lets it proceed. It checks again whether everything is prepared."""
        now = self._clock()
        self._write(changed(moved(self._read(), OperationState.PREPARING, now), proceeded_at=now))

    def prepares_again(self) -> None:
        """A coordinator that was started begins to prepare it."""
        self._write(moved(self._read(), OperationState.PREPARING, self._clock()))

    def cancelling(self) -> None:
        """An operator has asked to cancel it."""
        self._write(changed(self._read(), cancel_requested=True))

    # What a task reports changes only the operation that it runs, while that has not ended.

    def _runs(self, operation_id: str) -> Operation | None:
        operation = self.current
        return operation if operation is not None and operation.operation_id == operation_id else None

    def failing(self, operation_id: str, failure: Failure) -> None:
        """failure: why it fails, or is rolled back."""
        if self._runs(operation_id) is not None:
            self._write(changed(self._read(), failure=failure))

    def step(self, operation_id: str, step: SwitchoverStep) -> None:
        if self._runs(operation_id) is not None:
            self._write(with_step(self._read(), replace(step, at=self._clock())))

    def ended(
        self,
        operation_id: str,
        state: OperationState,
        step: SwitchoverStep | None = None,
        result: SwitchoverResult | None = None,
        failure: Failure | None = None,
    ) -> None:
        """step: its last one. Who watches the operation sees both at once. failure: replaces the one with
        which it began to fail."""
        operation = self._runs(operation_id)
        if operation is None:
            return
        now, operations = self._clock(), self._read()
        if step is not None:
            operations = with_step(operations, replace(step, at=now))
        failure = None if state is OperationState.CANCELLED else failure or operation.failure
        self._write(moved(operations, state, now, result=result, failure=failure))
