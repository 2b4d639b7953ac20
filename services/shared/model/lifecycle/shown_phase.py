"""A migration's phase and its pipeline's state in one word, for clients.

`migration_phase` and `pipeline_state` decide which phase or state may follow which. A `Phase` is only shown.

created … streaming   the migration is migrating, and its pipeline is in that state
switchover   the source is frozen, and the sentinel is on its way
reverse      the destination has replaced the source, which receives its changes
rollback     the destination is frozen, and the sentinel is on its way back
bidirectional  both sides serve writers and receive each other's changes
paused, failed   the pipeline is, or one of two that work, in whatever phase its migration is
switched_over, complete, aborted   the migration has ended
"""

from __future__ import annotations

from enum import StrEnum

from services.shared.model.lifecycle.migration_phase import MigrationPhase
from services.shared.model.lifecycle.pipeline_state import PipelineState


class Phase(StrEnum):
    CREATED = "created"
    SCHEMA = "schema"
    COPY = "copy"
    INDEXES = "indexes"
    CATCHUP = "catchup"
    STREAMING = "streaming"
    SWITCHOVER = "switchover"
    SWITCHED_OVER = "switched-over"
    REVERSE = "reverse"
    ROLLBACK = "rollback"
    BIDIRECTIONAL = "bidirectional"
    COMPLETE = "complete"
    PAUSED = "paused"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Nothing runs any more and nothing can be resumed."""
        return self in _ENDS

    @property
    def running(self) -> bool:
        """The coordinator drives it on by itself."""
        return not self.ended and self not in _HALTED


_ENDS = frozenset({Phase.SWITCHED_OVER, Phase.COMPLETE, Phase.ABORTED})
_HALTED = frozenset({Phase.PAUSED, Phase.FAILED})


def shown_phase(phase: MigrationPhase, state: PipelineState) -> Phase:
    """Of a migration in `phase` whose pipeline is in `state`."""
    if phase.ended or (phase is not MigrationPhase.MIGRATING and state.running):
        return Phase(phase.value)
    return Phase(state.value)
