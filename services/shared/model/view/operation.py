"""An operation on a migration: a task of the coordinator that outlives the call that requested it."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.shared.model.lifecycle.operation_state import OperationKind, OperationState
from services.shared.model.view.failure import Failure
from services.shared.model.view.switchover import SwitchoverOptions, SwitchoverResult, SwitchoverStep


@dataclass(frozen=True, slots=True)
class Operation:
    """request_id: chosen by the client; a second request with it gets the same operation. steps: every change
    of a step, the oldest first. failure: why it failed or is being rolled back. cancel_requested: an
    operator has asked to cancel it. Times are Unix seconds, 0.0 for none. proceeded_at: when an operator let
    a held operation proceed."""

    operation_id: str
    migration_id: str
    request_id: str
    kind: OperationKind = OperationKind.SWITCHOVER
    options: SwitchoverOptions = field(default_factory=SwitchoverOptions)
    state: OperationState = OperationState.PREPARING
    state_since: float = 0.0
    started_at: float = 0.0
    proceeded_at: float = 0.0
    finished_at: float = 0.0
    cancel_requested: bool = False
    steps: tuple[SwitchoverStep, ...] = ()
    result: SwitchoverResult | None = None
    failure: Failure | None = None

    @property
    def held(self) -> bool:
        """Whether it stops once it is ready, until an operator lets it proceed."""
        return self.options.hold and not self.proceeded_at

    def left_s(self, now: float) -> float:
        """Seconds that are left of its timeout. now: Unix seconds."""
        whole = self.options.timeout_ms / 1000
        return min(whole, max(0.0, whole - (now - (self.proceeded_at or self.started_at))))
