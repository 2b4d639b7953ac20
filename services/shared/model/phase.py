"""Phases of a migration and the transitions between them.

created      checks passed, record stored; nothing is created on either server yet
schema       slot, publication and snapshot are created; the pre-data schema is restored
copy         table parts are copied under the snapshot; changes are already queued in the stream. Entered
             again from later phases when tables must be copied again or were added
indexes      indexes, constraints and the rest of post-data; ANALYZE
catchup      the applier applies what was committed during the copy
streaming    lag is small; the migration waits for the operator
switchover   source frozen, sentinel written; returns to streaming if it fails
switched_over, complete, aborted   final; `complete` is a clone that does not replicate changes
paused, failed   nothing runs; both record the phase that resume returns to
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
        """Nothing runs any more, and nothing can be resumed."""
        return not TRANSITIONS[self]

    @property
    def running(self) -> bool:
        """The coordinator advances it without an operator."""
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
"""Possible in every running phase. Exception: a switchover must end before a pause or an abort."""

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
"""Every allowed change of phase. The diagram in docs/architecture.md shows the same; a test checks this."""


def may_move(current: Phase, target: Phase) -> bool:
    """Whether `target` is allowed after `current`."""
    return target in TRANSITIONS[current]


def check_move(current: Phase, target: Phase) -> None:
    """Raises PgmigError(WRONG_PHASE) unless `target` is allowed after `current`."""
    if not may_move(current, target):
        raise PgmigError(ErrorKind.WRONG_PHASE, f"a migration in phase {current} cannot go to {target}")
