"""A switchover from a client's view, computed from its steps, its end and later views.

The stream of steps may break while the coordinator continues. The outcome is then unknown until
a view of the migration shows it; it is never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from services.shared.model import (
    ErrorKind,
    FreezeMode,
    MigrationView,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    StepName,
    StepState,
    SwitchoverResult,
    SwitchoverStep,
)

PURPOSES = {
    StepName.FREEZE: "block writes, end the sessions that write",
    StepName.SENTINEL: "write a marker into the source's WAL",
    StepName.DRAIN: "apply everything up to the marker",
    StepName.CLOSE: "refuse all sessions on the source",
    StepName.SEQUENCES: "set sequences on the destination",
    StepName.VERIFY: "check that nothing is missing",
    StepName.COMMIT: "end replication: the destination is the primary database now",
    StepName.ROLLBACK: "let the source accept writes again",
    StepName.UNPUBLISHED: "compare large objects and extensions' tables",
    StepName.HOOK_BEFORE_FREEZE: "run the hook before writes are blocked",
    StepName.PAUSE_POOLERS: "pause the connection poolers",
    StepName.HOOK_AFTER_DECISION: "run the hook that leads applications to the destination",
    StepName.RESUME_POOLERS: "resume the connection poolers",
    StepName.HOOK_AFTER_ROLLBACK: "run the hook after the roll-back",
}
"""What each step does."""

STEPS_IN_ORDER = tuple(PURPOSES)[:7]
"""The steps of every successful switchover."""

_OF_THE_STREAM = frozenset({ErrorKind.UNREACHABLE, ErrorKind.TRANSIENT, ErrorKind.INTERNAL})


class Outcome(Enum):
    RUNNING = auto()
    SWITCHED_OVER = auto()
    ROLLED_BACK = auto()
    CANCELLED = auto()
    REFUSED = auto()  # before anything was changed
    STUCK = auto()  # the rollback failed, or the migration stopped in it
    UNKNOWN = auto()  # the stream broke


OUTCOMES = {
    Outcome.RUNNING: ("Switching over …", ""),
    Outcome.SWITCHED_OVER: ("✔ Switched over", ""),
    Outcome.ROLLED_BACK: (
        "⚠ Rolled back",
        "The source accepts writes again; the migration continues and can be switched over later.",
    ),
    Outcome.CANCELLED: (
        "⚠ Cancelled",
        "The source accepts writes; the migration continues and can be switched over later.",
    ),
    Outcome.REFUSED: ("⚠ Refused: nothing was changed", ""),
    Outcome.STUCK: (
        "✘ The rollback failed",
        "The source may still refuse writes. pgmig-cli status shows the state.",
    ),
    Outcome.UNKNOWN: (
        "⚠ Connection lost: outcome not known yet",
        "The coordinator continues without this screen; the outcome is shown here when it is known.",
    ),
}
"""(title, resulting state) of each outcome."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """steps: the newest state of each step, in order of first appearance. operation: as last seen."""

    operation: Operation | None = None
    steps: tuple[SwitchoverStep, ...] = ()
    ended: bool = False
    error: PgmigError | None = None
    view: MigrationView | None = None

    def with_step(self, step: SwitchoverStep) -> Attempt:
        if any(known.name == step.name for known in self.steps):
            return replace(self, steps=tuple(step if s.name == step.name else s for s in self.steps))
        return replace(self, steps=(*self.steps, step))

    def with_operation(self, operation: Operation) -> Attempt:
        found = replace(self, operation=operation)
        for step in operation.steps[len(self.operation.steps) if self.operation else 0 :]:
            found = found.with_step(step)
        return found

    def with_end(self, error: PgmigError | None) -> Attempt:
        return replace(self, ended=True, error=error)

    def with_view(self, view: MigrationView) -> Attempt:
        """Add a view received after the end; earlier views do not show the outcome."""
        return replace(self, view=view) if self.ended else self

    @property
    def cancellable(self) -> bool:
        """Whether it has not ended, nobody has cancelled it, and it is not being decided or rolled back."""
        if self.operation is None or self.ended or self.operation.cancel_requested:
            return False
        last = {StepName.COMMIT, StepName.ROLLBACK}
        return not self.operation.state.ended and not any(step.name in last for step in self.steps)

    @property
    def waits(self) -> bool:
        """Whether it is held, and ready to proceed."""
        return self.operation is not None and self.operation.state is OperationState.READY

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since writes were blocked, as last reported."""
        return max((step.elapsed_ms for step in self.steps), default=0)

    @property
    def blocked(self) -> bool:
        """Whether writes on the source are blocked, as far as is known."""
        if self.operation is not None and self.operation.options.freeze is FreezeMode.NONE:
            return False
        frozen = any(step.name == StepName.FREEZE and step.state != StepState.FAILED for step in self.steps)
        return frozen and not self.ended and self.result is None and not self._rolled(StepState.DONE)

    @property
    def result(self) -> SwitchoverResult | None:
        told = next((step.result for step in self.steps if step.result is not None), None)
        if told is None and self.view is not None and self.view.phase is Phase.SWITCHED_OVER:
            return self.view.switchover
        return told

    @property
    def outcome(self) -> Outcome:
        if self.result is not None:
            return Outcome.SWITCHED_OVER
        if not self.ended:
            return Outcome.RUNNING
        cancelled = self.operation is not None and self.operation.state is OperationState.CANCELLED
        return Outcome.CANCELLED if cancelled else self._undone

    @property
    def _undone(self) -> Outcome:
        """The outcome of a switchover that has ended without a result, and was not cancelled."""
        if self._rolled(StepState.FAILED) or (self.view is not None and self.view.phase is Phase.FAILED):
            return Outcome.STUCK
        if self._rolled(StepState.DONE):
            return Outcome.ROLLED_BACK
        timed_out = self.error is not None and self.error.kind is ErrorKind.TIMEOUT
        if not self.steps and not self._cut_off and not timed_out:
            return Outcome.REFUSED
        return self._as_seen()

    @property
    def reason(self) -> tuple[str, str]:
        """(message, hint) about what stopped the switchover."""
        if self.error is not None and not self._cut_off:
            return str(self.error), self.error.hint
        if self.view is not None and self.view.failure is not None and self.outcome is not Outcome.UNKNOWN:
            return self.view.failure.message, self.view.failure.hint
        failed = [step for step in self.steps if step.state == StepState.FAILED and step.detail]
        rolled = [step for step in self.steps if step.name == StepName.ROLLBACK and step.detail]
        told = (failed or rolled)[:1]
        if told:
            return f"{told[0].name}: {told[0].detail}", ""
        return (str(self.error), self.error.hint) if self.error is not None else ("", "")

    @property
    def _cut_off(self) -> bool:
        """Whether the stream ended before the coordinator reported the result of the switchover."""
        return self.error is None or self.error.kind in _OF_THE_STREAM

    def _as_seen(self) -> Outcome:
        """The outcome from the newest view, if the steps do not show it. A rollback records a failure."""
        view = self.view
        if view is not None and view.phase in {Phase.STREAMING, Phase.CATCHUP} and view.failure is not None:
            return Outcome.ROLLED_BACK
        return Outcome.UNKNOWN

    def _rolled(self, state: StepState) -> bool:
        return any(step.name == StepName.ROLLBACK and step.state == state for step in self.steps)
