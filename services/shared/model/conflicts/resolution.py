"""Whether a change conflicts with this side, and which of the two remains: functions of values.

Both sides decide on their own, each when the other's change arrives, and must come to the same result. So a
decision uses only what both know: when the two changes were committed, each by the clock of its own server. A
transaction also says which changes of the receiving side it has seen: those that were committed there until
`Remote.seen`. What it has seen is older than it, whatever the clocks say, and no conflict.

Each key is a register whose last writer wins, and a deletion is a write like any other. So its time must be
known: `services.shared.pg.conflicts` records deletions. Where the time of a deletion is not known, an update
of the missing row cannot be decided, and `last-update-wins` stops.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from services.shared.model.conflicts.policy import ConflictKind, Decision, OnConflict
from services.shared.model.names import Direction


class Write(StrEnum):
    """What a change does to one key. A change of a key deletes one and inserts another."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


class Remote(NamedTuple):
    """The transaction of a change. Times are microseconds since the Unix epoch. committed_at: by the clock of
    its server. seen: it has seen what the receiving side has committed until then, by the clock of that
    side."""

    committed_at: int
    seen: int


class Local(NamedTuple):
    """A key on the receiving side. exists: it has a row. changed_at: when this side itself has last written
    the row, or deleted it (microseconds since the Unix epoch). None: it was last written by the other side,
    or so long ago that the time is not known."""

    exists: bool
    changed_at: int | None = None


def conflict_of(write: Write, local: Local, remote: Remote) -> ConflictKind | None:
    """The kind of the conflict; None if there is none."""
    unseen = local.changed_at is not None and local.changed_at > remote.seen
    if local.exists:
        if write is Write.INSERT:
            return ConflictKind.INSERT_EXISTS
        if not unseen:
            return None
        update = write is Write.UPDATE
        return ConflictKind.UPDATE_ORIGIN_DIFFERS if update else ConflictKind.DELETE_ORIGIN_DIFFERS
    if write is Write.DELETE:
        return ConflictKind.DELETE_MISSING
    if write is Write.UPDATE:
        return ConflictKind.UPDATE_DELETED if unseen else ConflictKind.UPDATE_MISSING
    return ConflictKind.INSERT_DELETED if unseen else None


def decide(
    policy: OnConflict, kind: ConflictKind, local: Local, remote: Remote, receiving: Direction
) -> Decision:
    """How a conflict is resolved. receiving: the direction in which the change was replicated. STOPPED also
    where `last-update-wins` cannot decide."""
    match policy:
        case OnConflict.STOP:
            return Decision.STOPPED
        case OnConflict.KEEP_LOCAL:
            return Decision.KEPT
        case OnConflict.APPLY_REMOTE:
            return Decision.APPLIED
        case OnConflict.LAST_UPDATE_WINS:
            return _last(kind, local, remote, receiving)


def _last(kind: ConflictKind, local: Local, remote: Remote, receiving: Direction) -> Decision:
    if kind is ConflictKind.DELETE_MISSING:
        return Decision.KEPT  # the row is on neither side
    if kind in {ConflictKind.UPDATE_MISSING, ConflictKind.TRUNCATE_ORIGIN_DIFFERS}:
        return Decision.STOPPED
    if local.changed_at is None or local.changed_at <= remote.seen:
        return Decision.APPLIED
    if local.changed_at == remote.committed_at:
        # The migration's source wins: on the destination its change is the remote one.
        return Decision.APPLIED if receiving is Direction.FORWARD else Decision.KEPT
    return Decision.APPLIED if remote.committed_at > local.changed_at else Decision.KEPT
