"""Whether a migration can be switched over now, as clients see it.

`services.shared.model.readiness` decides it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReasonCode(StrEnum):
    """Names what a reason is about. Codes are stable across releases. other: of a newer release."""

    NOT_STREAMING = "not-streaming"
    NOT_REPLICATING = "not-replicating"
    FAILED = "failed"
    PAUSED = "paused"
    CREDENTIALS_NEEDED = "credentials-needed"
    SLOT_LOST = "slot-lost"
    COPY_UNFINISHED = "copy-unfinished"
    INDEXES_UNFINISHED = "indexes-unfinished"
    NO_APPLIER = "no-applier"
    LAG = "lag"
    SOURCE_UNKNOWN = "source-unknown"
    DESTINATION_UNKNOWN = "destination-unknown"
    TABLES_MISSING = "tables-missing"
    INVALID_INDEXES = "invalid-indexes"
    PREPARED_TRANSACTIONS = "prepared-transactions"
    LOCKED_TABLES = "locked-tables"
    LONG_TRANSACTIONS = "long-transactions"
    SESSIONS_NOT_ENDABLE = "sessions-not-endable"
    SUBSCRIPTIONS_NOT_OURS = "subscriptions-not-ours"
    SESSIONS_HIDDEN = "sessions-hidden"
    SEQUENCES_NEAR_END = "sequences-near-end"
    DESTINATION_WRITTEN = "destination-written"
    DESTINATION_UNGUARDED = "destination-unguarded"
    DESTINATION_GUARDED = "destination-guarded"
    STANDBY_MISSING = "standby-missing"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Reason:
    """blocking: a switchover would fail or wait; otherwise this is a warning. remedy: what the operator can
    do."""

    code: ReasonCode
    blocking: bool
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """can_switch: no reason is blocking. reasons: the blocking ones first."""

    can_switch: bool
    reasons: tuple[Reason, ...] = ()

    @property
    def blocking(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.reasons if reason.blocking)


DEFAULT_MAX_LAG_S = 30.0
"""The default time-out of a switchover, in which the destination must apply what is pending."""


@dataclass(frozen=True, slots=True)
class LagLimit:
    """The largest lag with which a switchover begins. bytes: 0 for no limit. seconds: 0.0 for the default."""

    bytes: int = 0
    seconds: float = 0.0

    @property
    def longest_s(self) -> float:
        return self.seconds or DEFAULT_MAX_LAG_S

    def forbids(self, lag_bytes: int, lag_seconds: float) -> bool:
        """Whether a limit that was given is exceeded."""
        return 0 < self.seconds < lag_seconds or 0 < self.bytes < lag_bytes

    def exceeded(self, lag_bytes: int, lag_seconds: float) -> bool:
        """Whether a limit is exceeded, given or default."""
        return lag_seconds > self.longest_s or self.forbids(lag_bytes, lag_seconds)
