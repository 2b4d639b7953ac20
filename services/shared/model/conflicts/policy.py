"""Conflicts of two sides that replicate to each other: what they are called, and how they are resolved.

A conflict exists where a change arrives at a row that this side has changed, or deleted, without the other
side knowing of it. The names of conflicts are those of PostgreSQL's subscriptions, as far as it has them
("Conflicts" in the manual's chapter on logical replication).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.shared.model.lsn import Lsn
from services.shared.model.tables.table import TableId


class OnConflict(StrEnum):
    """What the applier does with a change that conflicts with one of this side.

    stop: it stops before the transaction. last-update-wins: of the two changes, the one that was committed
    later remains, on both sides. keep-local: the change is not applied. apply-remote: it is applied. With
    keep-local and apply-remote the two sides may differ afterwards.
    """

    STOP = "stop"
    LAST_UPDATE_WINS = "last-update-wins"
    KEEP_LOCAL = "keep-local"
    APPLY_REMOTE = "apply-remote"


class ConflictKind(StrEnum):
    """insert_exists: the inserted key exists here. insert_deleted: it was inserted and deleted here.
    update_origin_differs, delete_origin_differs: the row was changed here. update_deleted: it was deleted
    here. update_missing: it is not here, and when it was deleted is unknown. delete_missing: it is not here.
    unique_exists: another row here has a value of the change that must be unique. truncate_origin_differs: a
    table that is truncated has rows that were changed here.
    """

    INSERT_EXISTS = "insert_exists"
    INSERT_DELETED = "insert_deleted"
    UPDATE_ORIGIN_DIFFERS = "update_origin_differs"
    UPDATE_DELETED = "update_deleted"
    UPDATE_MISSING = "update_missing"
    DELETE_ORIGIN_DIFFERS = "delete_origin_differs"
    DELETE_MISSING = "delete_missing"
    UNIQUE_EXISTS = "unique_exists"
    TRUNCATE_ORIGIN_DIFFERS = "truncate_origin_differs"


class Decision(StrEnum):
    """applied: the other side's change. kept: what this side has. stopped: nothing of the transaction was
    applied, and the pipeline has stopped."""

    APPLIED = "applied"
    KEPT = "kept"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Conflict:
    """One conflict as it is recorded and shown.

    key: names and values of the key's columns, and no other values. lsn: of the commit record of the
    transaction that arrived. remote_at, local_at: when the two changes were committed, each by its own
    server's clock (seconds since the Unix epoch); local_at 0.0: not known. resolved_at: by the clock of the
    server on which the conflict was resolved; 0.0 before it is recorded.
    """

    table: TableId
    kind: ConflictKind
    decision: Decision
    key: tuple[tuple[str, str], ...]
    lsn: Lsn
    remote_at: float
    local_at: float = 0.0
    resolved_at: float = 0.0
