"""Phases of a migration, and their transitions.

A migration has one or two pipelines, each with a state of its own (`pipeline_state`).

migrating      its pipelines work: they copy, and follow the source's changes
switchover     the source is frozen, and the sentinel is on its way; back to migrating when it fails
switched-over  the destination has replaced the source
reverse        the destination has replaced the source, which receives its changes
rollback       the destination is frozen, and the sentinel is on its way back; back to reverse when it fails
bidirectional  both sides serve writers and receive each other's changes
complete       everything is copied, by a migration that does not follow changes; or the replication in both
               directions was ended
aborted        an operator gave it up
"""

from __future__ import annotations

from enum import StrEnum

from services.shared.model.errors import ErrorKind, PgmigError
from services.shared.model.lifecycle.pipeline_state import PipelineState


class MigrationPhase(StrEnum):
    MIGRATING = "migrating"
    SWITCHOVER = "switchover"
    SWITCHED_OVER = "switched-over"
    REVERSE = "reverse"
    ROLLBACK = "rollback"
    BIDIRECTIONAL = "bidirectional"
    COMPLETE = "complete"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Nothing runs any more and nothing can be resumed."""
        return not PHASE_TRANSITIONS[self]

    @property
    def blocks(self) -> bool:
        """An operation blocks writers, or has begun to, and is neither decided nor undone."""
        return self in HOME


PHASE_TRANSITIONS: dict[MigrationPhase, frozenset[MigrationPhase]] = {
    MigrationPhase.MIGRATING: frozenset(
        {
            MigrationPhase.SWITCHOVER,
            MigrationPhase.BIDIRECTIONAL,
            MigrationPhase.COMPLETE,
            MigrationPhase.ABORTED,
        }
    ),
    MigrationPhase.SWITCHOVER: frozenset(
        {MigrationPhase.MIGRATING, MigrationPhase.SWITCHED_OVER, MigrationPhase.REVERSE}
    ),
    MigrationPhase.REVERSE: frozenset({MigrationPhase.ROLLBACK, MigrationPhase.SWITCHED_OVER}),
    MigrationPhase.ROLLBACK: frozenset({MigrationPhase.REVERSE, MigrationPhase.MIGRATING}),
    MigrationPhase.BIDIRECTIONAL: frozenset({MigrationPhase.COMPLETE, MigrationPhase.ABORTED}),
    MigrationPhase.SWITCHED_OVER: frozenset(),
    MigrationPhase.COMPLETE: frozenset(),
    MigrationPhase.ABORTED: frozenset(),
}
"""Every allowed change of phase. The diagram in docs/architecture.md shows the same; a test compares them."""

_REPLICATING = frozenset(
    {PipelineState.CATCHUP, PipelineState.STREAMING, PipelineState.PAUSED, PipelineState.FAILED}
)

STATES: dict[MigrationPhase, frozenset[PipelineState]] = {
    MigrationPhase.MIGRATING: frozenset(PipelineState) - {PipelineState.IDLE, PipelineState.ENDED},
    MigrationPhase.SWITCHOVER: frozenset({PipelineState.STREAMING, PipelineState.FAILED}),
    MigrationPhase.REVERSE: _REPLICATING,
    MigrationPhase.ROLLBACK: frozenset({PipelineState.STREAMING, PipelineState.FAILED}),
    MigrationPhase.BIDIRECTIONAL: _REPLICATING,
    MigrationPhase.SWITCHED_OVER: frozenset({PipelineState.ENDED}),
    MigrationPhase.COMPLETE: frozenset({PipelineState.ENDED}),
    MigrationPhase.ABORTED: frozenset({PipelineState.ENDED}),
}
"""In which states the pipeline that works can be in each phase; in phase bidirectional, both. Otherwise the
other one, if there is one, is idle until the migration has ended. A switchover must not be paused, nor
aborted while its pipeline runs; if its pipeline fails, so that it cannot be undone, it is resumed or
aborted."""

TURNS: dict[MigrationPhase, MigrationPhase] = {
    MigrationPhase.SWITCHOVER: MigrationPhase.REVERSE,
    MigrationPhase.ROLLBACK: MigrationPhase.MIGRATING,
}
"""Moves after which the pipeline in the other direction works."""

HOME: dict[MigrationPhase, MigrationPhase] = {
    MigrationPhase.SWITCHOVER: MigrationPhase.MIGRATING,
    MigrationPhase.ROLLBACK: MigrationPhase.REVERSE,
}
"""The phase in which an operation began, and to which it returns if it is undone."""

ENDED_FROM: dict[MigrationPhase, frozenset[PipelineState]] = {
    MigrationPhase.SWITCHED_OVER: frozenset({PipelineState.STREAMING}),
    MigrationPhase.COMPLETE: frozenset({PipelineState.INDEXES}),
    MigrationPhase.ABORTED: STATES[MigrationPhase.MIGRATING],
}
"""In which states a pipeline can be when its migration enters a phase that ends it."""


BOTH_FROM = frozenset({PipelineState.CATCHUP, PipelineState.STREAMING})
"""In which states the pipeline can be when its migration enters phase bidirectional."""


def check_phase_move(current: MigrationPhase, target: MigrationPhase) -> None:
    """Raises PgmigError(WRONG_PHASE) unless `target` may follow `current`."""
    if target not in PHASE_TRANSITIONS[current]:
        raise PgmigError(ErrorKind.WRONG_PHASE, f"a migration in phase {current} cannot go to {target}")


def check_state(phase: MigrationPhase, state: PipelineState) -> None:
    """Raises PgmigError(WRONG_PHASE) unless a pipeline can be in that state in that phase."""
    if state not in STATES[phase]:
        raise PgmigError(ErrorKind.WRONG_PHASE, f"a pipeline cannot be {state} in phase {phase}")


def check_end(phase: MigrationPhase, state: PipelineState) -> None:
    """Raises PgmigError(WRONG_PHASE) unless a migration can enter `phase` with its pipeline in that state."""
    if state not in ENDED_FROM[phase]:
        raise PgmigError(ErrorKind.WRONG_PHASE, f"a migration whose pipeline is {state} cannot be {phase}")
