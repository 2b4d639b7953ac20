"""The steps of a switchover, by what they need."""

from __future__ import annotations

from services.shared.model import StepName

AROUND = frozenset(
    {
        StepName.HOOK_BEFORE_FREEZE,
        StepName.PAUSE_POOLERS,
        StepName.HOOK_AFTER_DECISION,
        StepName.RESUME_POOLERS,
        StepName.HOOK_AFTER_ROLLBACK,
    }
)
"""Only a switchover with hooks and poolers has these."""
