"""Phases of a migration and the transitions between them.

created      checks passed, record persisted; nothing on either server yet
schema       slot, publication and snapshot are made; pre-data schema goes to the destination
copy         table parts are copied under the snapshot; changes already queue in the stream. Entered
             again from later phases when tables have to be copied again or were added
indexes      indexes, constraints and the rest of post-data; ANALYZE
catchup      the applier works off what was committed meanwhile
streaming    lag is small; the migration waits for the operator
switchover   source frozen, sentinel on its way; falls back to streaming when it fails
switched_over, complete, aborted   ends; `complete` is a clone that does not follow
paused, failed   nothing moves; both remember the phase that resume returns to
"""

from __future__ import annotations

from enum import StrEnum

from services.shared.model.errors import ErrorKind, PgmigError


class Phase(StrEnum):
    CREATED = "created"
    SCHEMA = "schema"
    COPY = "copy"
    INDEXES = "indexes"
    CATCHUP = "catchup"
    STREAMING = "streaming"
    SWITCHOVER = "switchover"
    SWITCHED_OVER = "switched-over"
    COMPLETE = "complete"
    PAUSED = "paused"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Nothing runs any more and nothing can be resumed."""
        return not TRANSITIONS[self]

    @property
    def running(self) -> bool:
        """The coordinator drives it on by itself."""
        return self in _RUNNING


_RUNNING = frozenset(
    {
        Phase.CREATED,
        Phase.SCHEMA,
        Phase.COPY,
        Phase.INDEXES,
        Phase.CATCHUP,
        Phase.STREAMING,
        Phase.SWITCHOVER,
    }
)
_HALTS = frozenset({Phase.PAUSED, Phase.FAILED, Phase.ABORTED})
"""Possible in every running phase, except that a switchover ends before a pause or an abort."""

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.CREATED: frozenset({Phase.SCHEMA, *_HALTS}),
    Phase.SCHEMA: frozenset({Phase.COPY, *_HALTS}),
    Phase.COPY: frozenset({Phase.INDEXES, *_HALTS}),
    Phase.INDEXES: frozenset({Phase.CATCHUP, Phase.COMPLETE, Phase.COPY, *_HALTS}),
    Phase.CATCHUP: frozenset({Phase.STREAMING, Phase.COPY, *_HALTS}),
    Phase.STREAMING: frozenset({Phase.CATCHUP, Phase.SWITCHOVER, Phase.COPY, *_HALTS}),
    Phase.SWITCHOVER: frozenset({Phase.STREAMING, Phase.SWITCHED_OVER, Phase.FAILED}),
    Phase.SWITCHED_OVER: frozenset(),
    Phase.COMPLETE: frozenset(),
    Phase.PAUSED: frozenset({*_RUNNING, Phase.FAILED, Phase.ABORTED}),
    Phase.FAILED: frozenset({*_RUNNING, Phase.ABORTED}),
    Phase.ABORTED: frozenset(),
}
"""Every allowed change of phase. The diagram in docs/architecture.md shows the same; a test compares them."""


def may_move(current: Phase, target: Phase) -> bool:
    """Whether `target` may follow `current`."""
    return target in TRANSITIONS[current]


def check_move(current: Phase, target: Phase) -> None:
    """Raises PgmigError(WRONG_PHASE) unless `target` may follow `current`."""
    if not may_move(current, target):
        raise PgmigError(ErrorKind.WRONG_PHASE, f"a migration in phase {current} cannot go to {target}")
