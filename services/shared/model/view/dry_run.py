"""A dry run of a switchover, as clients see it: its steps, and the result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.shared.model.view.readiness import Readiness
from services.shared.model.view.switchover import StepName, StepState


class DryRunStepName(StrEnum):
    """In order. None of them changes anything or blocks a session."""

    CREDENTIALS = "credentials"
    READINESS = "readiness"
    TABLES = "tables"
    UNLOGGED = "unlogged"
    SEQUENCES = "sequences"
    UNPUBLISHED = "unpublished"
    RIGHTS = "rights"
    HOOKS_POOLERS = "hooks-poolers"
    WAY_BACK = "way-back"


@dataclass(frozen=True, slots=True)
class DryRunStep:
    """state: done or failed. detail: what was found, or why it failed. remedy: what to do if it failed."""

    name: DryRunStepName
    state: StepState
    detail: str = ""
    remedy: str = ""
    took_ms: int = 0


@dataclass(frozen=True, slots=True)
class EstimatedPart:
    """A part of the time for which writes would be blocked."""

    step: StepName
    milliseconds: int


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """can_switch: no step failed, and no reason is blocking. estimate: empty if steps were left out."""

    readiness: Readiness
    can_switch: bool
    estimate: tuple[EstimatedPart, ...] = ()

    @property
    def blocked_ms(self) -> int:
        """The estimated time for which writes would be blocked."""
        return sum(part.milliseconds for part in self.estimate)
