"""Conflicts as clients see them: those that were recorded on both sides."""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model.conflicts.policy import ConflictKind, Decision
from services.shared.model.lsn import Lsn
from services.shared.model.names import Direction
from services.shared.model.tables.table import TableId


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A column of a row's key, and its value."""

    column: str
    value: str


@dataclass(frozen=True, slots=True)
class RecordedConflict:
    """See services.shared.model.conflicts.policy.Conflict. direction: in which the change was replicated that
    met one of the other side."""

    direction: Direction
    table: TableId
    kind: ConflictKind
    decision: Decision
    key: tuple[KeyValue, ...]
    lsn: Lsn
    remote_at: float
    local_at: float
    resolved_at: float


@dataclass(frozen=True, slots=True)
class ConflictCount:
    direction: Direction
    kind: ConflictKind
    decision: Decision
    count: int


@dataclass(frozen=True, slots=True)
class ConflictReport:
    """counts: of all that were recorded, by kind and decision. conflicts: the last ones, the newest first."""

    counts: tuple[ConflictCount, ...] = ()
    conflicts: tuple[RecordedConflict, ...] = ()
