"""A switchover as clients see it: what was asked for, its steps, and its result.

Times are seconds since the Unix epoch (UTC), as float; 0.0 means none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from services.shared.model.lsn import Lsn
from services.shared.model.view.readiness import LagLimit


class FreezeMode(StrEnum):
    """How writers are kept from the source.

    database: they are blocked by locks, and the database is closed. none: nobody is blocked, because the
    operator has stopped the application; writes that are found nevertheless roll the switchover back.
    """

    DATABASE = "database"
    NONE = "none"


class HookName(StrEnum):
    """When the coordinator runs a command of the operator."""

    BEFORE_FREEZE = "before-freeze"
    AFTER_DECISION = "after-decision"
    AFTER_ROLLBACK = "after-rollback"


@dataclass(frozen=True, slots=True)
class SwitchoverOptions:
    """timeout_ms: the longest time for which writes may be blocked. The preparation must end in that time
    too, unless the switchover is held. hold: prepare everything, then wait until an operator lets it
    proceed. max_lag: writes are not blocked as long as the lag is larger.

    pause_poolers: connection strings of PgBouncer's admin consoles (services.shared.pg.pooler). A request may
    contain passwords. What the coordinator keeps and returns does not. hook_*: commands; "": none.
    hook_timeout_ms: the longest time for each of them. reverse: afterwards the destination's changes are
    replicated back, so that the migration can be rolled back.
    """

    timeout_ms: int = 30_000
    hold: bool = False
    max_lag: LagLimit = field(default_factory=LagLimit)
    freeze: FreezeMode = FreezeMode.DATABASE
    pause_poolers: tuple[str, ...] = field(default=(), repr=False)
    hook_before_freeze: str = ""
    hook_after_decision: str = ""
    hook_after_rollback: str = ""
    hook_timeout_ms: int = 30_000
    reverse: bool = False

    @property
    def hooks(self) -> dict[HookName, str]:
        """The commands, "" for none."""
        return {
            HookName.BEFORE_FREEZE: self.hook_before_freeze,
            HookName.AFTER_DECISION: self.hook_after_decision,
            HookName.AFTER_ROLLBACK: self.hook_after_rollback,
        }


@dataclass(frozen=True, slots=True)
class SwitchoverResult:
    """certificate_sha256: the digest of its certificate; "" until that is issued. warnings: what failed after
    the decision, and what to do about it."""

    sentinel_lsn: Lsn
    write_downtime_ms: int
    sequences: int
    finished_at: float
    certificate_sha256: str = ""
    warnings: tuple[str, ...] = ()


class StepName(StrEnum):
    """The steps of a switchover, in order. `rollback` replaces the remaining steps.

    unpublished: compares the tables and large objects that no publication includes, if there are any. The
    steps of hooks and poolers exist only if the switchover has some. resume-poolers: after the hook that
    follows the decision, or after the roll-back.
    """

    HOOK_BEFORE_FREEZE = "hook-before-freeze"
    PAUSE_POOLERS = "pause-poolers"
    FREEZE = "freeze"
    SENTINEL = "sentinel"
    DRAIN = "drain"
    CLOSE = "close"
    SEQUENCES = "sequences"
    UNPUBLISHED = "unpublished"
    VERIFY = "verify"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    HOOK_AFTER_DECISION = "hook-after-decision"
    RESUME_POOLERS = "resume-poolers"
    HOOK_AFTER_ROLLBACK = "hook-after-rollback"


class StepState(StrEnum):
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SwitchoverStep:
    """elapsed_ms: since writes were blocked. at: Unix seconds."""

    name: StepName
    state: StepState
    detail: str = ""
    elapsed_ms: int = 0
    result: SwitchoverResult | None = None
    at: float = 0.0
