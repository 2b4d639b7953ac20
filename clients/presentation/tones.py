"""The meaning of a piece of text for its reader. Each client shows it in its own colours."""

from __future__ import annotations

from enum import StrEnum

from services.shared.model import (
    EventLevel,
    Phase,
    StepState,
)


class Tone(StrEnum):
    PLAIN = "plain"
    MUTED = "muted"
    """Less important than the main text."""
    ACTIVE = "active"
    """Work is running normally."""
    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


Phrase = tuple[str, Tone]
"""Text of one tone. A sentence with several tones is a list of phrases."""

_PHASES = {
    Phase.STREAMING: Tone.GOOD,
    Phase.SWITCHED_OVER: Tone.GOOD,
    Phase.COMPLETE: Tone.GOOD,
    Phase.SWITCHOVER: Tone.WARNING,
    Phase.REVERSE: Tone.GOOD,
    Phase.ROLLBACK: Tone.WARNING,
    Phase.BIDIRECTIONAL: Tone.GOOD,
    Phase.PAUSED: Tone.WARNING,
    Phase.FAILED: Tone.BAD,
    Phase.ABORTED: Tone.BAD,
}
_LEVELS = {EventLevel.INFO: Tone.PLAIN, EventLevel.WARNING: Tone.WARNING, EventLevel.ERROR: Tone.BAD}
_STEPS = {StepState.STARTED: Tone.ACTIVE, StepState.DONE: Tone.GOOD, StepState.FAILED: Tone.BAD}


def phase_tone(phase: Phase) -> Tone:
    return _PHASES.get(phase, Tone.ACTIVE)


def level_tone(level: EventLevel) -> Tone:
    """The tone of an event."""
    return _LEVELS[level]


def step_tone(state: StepState) -> Tone:
    """The tone of a switchover step."""
    return _STEPS[state]
