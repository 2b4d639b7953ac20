"""The phase timeline: which steps are done, which is current, and which come later.

A clone without replication ends in `complete`, and so does one in both directions. Every other migration ends
in `switched-over`.
Paused and failed migrations are shown at the phase that resume returns to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.shared.model import MigrationView, Phase

_FOLLOWING = (
    Phase.CREATED,
    Phase.SCHEMA,
    Phase.COPY,
    Phase.INDEXES,
    Phase.CATCHUP,
    Phase.STREAMING,
    Phase.SWITCHOVER,
    Phase.SWITCHED_OVER,
)
_AND_BACK = (*_FOLLOWING[:-1], Phase.REVERSE, Phase.SWITCHED_OVER)
_BOTH = (*_FOLLOWING[:-2], Phase.BIDIRECTIONAL, Phase.COMPLETE)
_CLONE = (Phase.CREATED, Phase.SCHEMA, Phase.COPY, Phase.INDEXES, Phase.COMPLETE)


class Mark(StrEnum):
    """The state of a step. The value is its symbol, so that states can be distinguished without colour."""

    DONE = "✔"
    NOW = "●"
    PAUSED = "‖"
    FAILED = "✘"
    TO_COME = "○"


@dataclass(frozen=True, slots=True)
class Step:
    phase: Phase
    mark: Mark


def steps(view: MigrationView) -> list[Step]:
    """The timeline of `view`, first phase first. An aborted migration ends with a failed step."""
    path: tuple[Phase, ...] = _FOLLOWING if view.options.follow or view.phase in _FOLLOWING[4:] else _CLONE
    if view.options.bidirectional:
        path = _BOTH
    if view.phase in {Phase.REVERSE, Phase.ROLLBACK} or view.resume_phase is Phase.REVERSE:
        path = _AND_BACK
    if view.phase is Phase.ABORTED:
        return [Step(Phase.CREATED, Mark.DONE), Step(Phase.ABORTED, Mark.FAILED)]
    here: Phase = view.phase
    if here is Phase.ROLLBACK:
        path = tuple(Phase.ROLLBACK if one is Phase.REVERSE else one for one in path)
    mark = Mark.NOW
    if view.phase in {Phase.PAUSED, Phase.FAILED}:
        here = view.resume_phase or Phase.CREATED
        mark = Mark.PAUSED if view.phase is Phase.PAUSED else Mark.FAILED
    elif view.phase.ended:
        mark = Mark.DONE
    at = path.index(here) if here in path else 0
    return [
        Step(phase, Mark.DONE if i < at else mark if i == at else Mark.TO_COME)
        for i, phase in enumerate(path)
    ]


def labels(timeline: list[Step], width: int) -> tuple[list[str], str]:
    """Text for each step, and the separator between two steps. The longest variant that fits `width` cells
    is used: symbols and names with wide spacing, then narrow spacing, then only the current step's name."""
    spaced = [f"{step.mark} {step.phase}" for step in timeline]
    close = [f"{step.mark}{step.phase}" for step in timeline]
    current = [
        f"{step.mark} {step.phase}" if step.mark in {Mark.NOW, Mark.PAUSED, Mark.FAILED} else str(step.mark)
        for step in timeline
    ]
    variants = ((spaced, " ── "), (spaced, " ─ "), (spaced, "  "), (close, " "), (current, " ─ "))
    for texts, joint in variants:
        if sum(map(len, texts)) + len(joint) * (len(texts) - 1) <= width:
            return texts, joint
    return current, " "


def elapsed(view: MigrationView, now: float) -> tuple[float, float]:
    """Seconds since the migration was created, and since its phase began. Both stop when it ends."""
    if view.phase.ended:
        return max(0.0, view.phase_since - view.created_at), 0.0
    total = now - view.created_at if view.created_at else 0.0
    return max(0.0, total), max(0.0, now - view.phase_since) if view.phase_since else 0.0
