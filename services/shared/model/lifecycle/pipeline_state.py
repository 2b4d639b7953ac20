"""States of a pipeline, and their transitions.

created      checks passed, record persisted; nothing on either server yet
schema       slot, publication and snapshot are made; pre-data schema goes to the destination
copy         table parts are copied under the snapshot; changes already queue in the stream. Entered
             again from later states when tables have to be copied again or were added
indexes      indexes, constraints and the rest of post-data; ANALYZE
catchup      the applier works off what was committed meanwhile
streaming    lag is small
paused, failed   nothing moves; both remember the state that resume returns to
idle         the pipeline in the other direction works; nothing of this one may run
ended        its work is done or given up: the migration has ended, or has switched over
"""

from __future__ import annotations

from enum import StrEnum

from services.shared.model.errors import ErrorKind, PgmigError


class PipelineState(StrEnum):
    CREATED = "created"
    SCHEMA = "schema"
    COPY = "copy"
    INDEXES = "indexes"
    CATCHUP = "catchup"
    STREAMING = "streaming"
    PAUSED = "paused"
    FAILED = "failed"
    IDLE = "idle"
    ENDED = "ended"

    @property
    def running(self) -> bool:
        """The coordinator drives it on by itself."""
        return self in _RUNNING


_RUNNING = frozenset(
    {
        PipelineState.CREATED,
        PipelineState.SCHEMA,
        PipelineState.COPY,
        PipelineState.INDEXES,
        PipelineState.CATCHUP,
        PipelineState.STREAMING,
    }
)
_HALTS = frozenset({PipelineState.PAUSED, PipelineState.FAILED, PipelineState.ENDED})
"""Possible in every running state."""

STATE_TRANSITIONS: dict[PipelineState, frozenset[PipelineState]] = {
    PipelineState.CREATED: frozenset({PipelineState.SCHEMA, *_HALTS}),
    PipelineState.SCHEMA: frozenset({PipelineState.COPY, *_HALTS}),
    PipelineState.COPY: frozenset({PipelineState.INDEXES, *_HALTS}),
    PipelineState.INDEXES: frozenset({PipelineState.CATCHUP, PipelineState.COPY, *_HALTS}),
    PipelineState.CATCHUP: frozenset({PipelineState.STREAMING, PipelineState.COPY, *_HALTS}),
    PipelineState.STREAMING: frozenset(
        {PipelineState.CATCHUP, PipelineState.COPY, PipelineState.IDLE, *_HALTS}
    ),
    PipelineState.PAUSED: frozenset({*_RUNNING, PipelineState.FAILED, PipelineState.ENDED}),
    PipelineState.FAILED: frozenset({*_RUNNING, PipelineState.ENDED}),
    PipelineState.IDLE: frozenset({PipelineState.CATCHUP, PipelineState.ENDED}),
    PipelineState.ENDED: frozenset(),
}
"""Every allowed change of state. The diagram in docs/architecture.md shows the same; a test compares them."""


def check_state_move(current: PipelineState, target: PipelineState) -> None:
    """Raises PgmigError(WRONG_PHASE) unless `target` may follow `current`."""
    if target not in STATE_TRANSITIONS[current]:
        raise PgmigError(ErrorKind.WRONG_PHASE, f"a pipeline that is {current} cannot become {target}")
