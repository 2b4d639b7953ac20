"""Phases of a migration and the moves between them.

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
        return self in _ENDED

    @property
    def running(self) -> bool:
        """The coordinator drives it on by itself."""
        return self in _NEXT


_ENDED = frozenset({Phase.SWITCHED_OVER, Phase.COMPLETE, Phase.ABORTED})
_HALTED = frozenset({Phase.PAUSED, Phase.FAILED})
_NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.CREATED: frozenset({Phase.SCHEMA}),
    Phase.SCHEMA: frozenset({Phase.COPY}),
    Phase.COPY: frozenset({Phase.INDEXES}),
    Phase.INDEXES: frozenset({Phase.CATCHUP, Phase.COMPLETE, Phase.COPY}),
    Phase.CATCHUP: frozenset({Phase.STREAMING, Phase.COPY}),
    Phase.STREAMING: frozenset({Phase.CATCHUP, Phase.SWITCHOVER, Phase.COPY}),
    Phase.SWITCHOVER: frozenset({Phase.STREAMING, Phase.SWITCHED_OVER}),
}


def may_move(current: Phase, target: Phase) -> bool:
    """Whether `target` may follow `current`."""
    if target is Phase.ABORTED:
        return not current.ended and current is not Phase.SWITCHOVER
    if current in _NEXT:
        halts = _HALTED if current is not Phase.SWITCHOVER else frozenset({Phase.FAILED})
        return target in _NEXT[current] or target in halts
    if current in _HALTED:
        return target in _NEXT or (current is Phase.PAUSED and target is Phase.FAILED)
    return False


def check_move(current: Phase, target: Phase) -> None:
    """Raises PgmigError(WRONG_PHASE) unless `target` may follow `current`."""
    if not may_move(current, target):
        raise PgmigError(ErrorKind.WRONG_PHASE, f"a migration in phase {current} cannot go to {target}")
