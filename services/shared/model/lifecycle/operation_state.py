"""States of an operation, and their transitions.

preparing    nothing is blocked yet: it waits for a small lag, and checks both sides
ready        everything is prepared; it waits until an operator lets it proceed
running      writes to the source are being blocked, or are blocked. Also while that is undone
succeeded    decided: the destination has replaced the source
rolled-back  it failed while it was running; the source accepts writes again
cancelled    an operator cancelled it before it was decided; the source accepts writes
failed       it failed before anything was blocked, or another coordinator or an operator has to undo it
"""

from __future__ import annotations

from enum import StrEnum

from services.shared.model.errors import ErrorKind, PgmigError


class OperationKind(StrEnum):
    SWITCHOVER = "switchover"
    ROLLBACK = "rollback"


class OperationState(StrEnum):
    PREPARING = "preparing"
    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled-back"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return not OPERATION_TRANSITIONS[self]


OPERATION_TRANSITIONS: dict[OperationState, frozenset[OperationState]] = {
    OperationState.PREPARING: frozenset(
        {OperationState.READY, OperationState.RUNNING, OperationState.CANCELLED, OperationState.FAILED}
    ),
    OperationState.READY: frozenset(
        {OperationState.PREPARING, OperationState.CANCELLED, OperationState.FAILED}
    ),
    OperationState.RUNNING: frozenset(
        {
            OperationState.SUCCEEDED,
            OperationState.ROLLED_BACK,
            OperationState.CANCELLED,
            OperationState.FAILED,
        }
    ),
    OperationState.SUCCEEDED: frozenset(),
    OperationState.ROLLED_BACK: frozenset(),
    OperationState.CANCELLED: frozenset(),
    OperationState.FAILED: frozenset(),
}
"""Every allowed change of state. The diagram in docs/architecture.md shows the same; a test compares them."""


def check_operation_move(current: OperationState, target: OperationState) -> None:
    """Raises PgmigError(WRONG_PHASE) unless `target` may follow `current`."""
    if target not in OPERATION_TRANSITIONS[current]:
        raise PgmigError(ErrorKind.WRONG_PHASE, f"an operation that is {current} cannot become {target}")
