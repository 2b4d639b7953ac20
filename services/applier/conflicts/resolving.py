"""Steps in, steps without conflicts out: what remains to be written once every conflict is decided.

A pure function of the steps and of the keys whose state is not what the steps expect. The result can be
written in any way that steps can. A change of a key is a deletion of one key and an insertion of another,
each decided by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from services.applier.compact import Step, Truncation
from services.applier.planner import Chunk
from services.shared.model import Direction, ErrorKind, Lsn, PgmigError, TableId
from services.shared.model.conflicts.policy import Conflict, ConflictKind, Decision, OnConflict
from services.shared.model.conflicts.resolution import Local, Remote, Write, conflict_of, decide
from services.shared.pg.apply.key_states import Expected, of_key
from services.shared.pg.apply.target_table import Key, TargetTable
from services.shared.pgoutput import UNCHANGED, Delete, Insert, Update, Values

States = Mapping[tuple[TargetTable, Key], Local]
_US = 1_000_000


class ConflictError(PgmigError):
    """A conflict at which the applier stops."""

    def __init__(self, conflict: Conflict, why: str, hint: str) -> None:
        self.conflict = conflict
        super().__init__(ErrorKind.CONFLICT, why, hint, conflict.lsn)


class Timed(NamedTuple):
    """A step and its transaction. lsn: of the commit record."""

    step: Step
    remote: Remote
    lsn: int


def timed(group: Iterable[Chunk]) -> Iterator[Timed]:
    for chunk in group:
        start = 0
        if not chunk.transactions:
            remote = Remote(chunk.commit_time, chunk.seen)
            yield from (Timed(step, remote, chunk.commit_lsn) for step in chunk.steps)
        for one in chunk.transactions:
            remote = Remote(one.commit_time, chunk.seen)
            yield from (Timed(step, remote, one.commit_lsn) for step in chunk.steps[start : one.stop])
            start = one.stop


def expected_keys(steps: Iterable[Timed]) -> dict[TargetTable, dict[Key, Expected]]:
    """What the first change of each key expects. After a TRUNCATE nothing can be unexpected."""
    found: dict[TargetTable, dict[Key, Expected]] = {}
    emptied: set[TableId] = set()
    for step, remote, _ in steps:
        if isinstance(step, Truncation):
            emptied.update(step.tables)
            continue
        target, change = step
        if not target.keyed or target.table in emptied:
            continue
        keys = found.setdefault(target, {})
        if isinstance(change, Insert):
            keys.setdefault(of_key(target, change.new), Expected(False, remote.seen))
            continue
        before = of_key(target, change.old if change.old is not None else change.new)
        keys.setdefault(before, Expected(True, remote.seen))
        if isinstance(change, Update) and (after := of_key(target, change.new)) != before:
            keys.setdefault(after, Expected(False, remote.seen))
    return found


class Resolving:
    """states: of the keys that are not as expected; of every other key the steps tell the state."""

    def __init__(self, policy: OnConflict, receiving: Direction, states: States) -> None:
        self._policy = policy
        self._receiving = receiving
        self._states = dict(states)
        self._steps: list[Step] = []
        self.conflicts: list[Conflict] = []

    def resolve(self, steps: Iterable[Timed]) -> list[Step]:
        """The steps to write instead. Raises ConflictError."""
        for one in steps:
            if isinstance(one.step, Truncation):
                self._steps.append(one.step)
                self._empty(one.step)
                continue
            target, change = one.step
            if isinstance(change, Insert):
                self._insert(target, change, one)
            elif isinstance(change, Delete):
                self._delete(target, change, one)
            else:
                self._update(target, change, one)
        return self._steps

    def _empty(self, truncation: Truncation) -> None:
        for key in [key for key in self._states if key[0].table in truncation.tables]:
            del self._states[key]

    def _insert(self, target: TargetTable, change: Insert, one: Timed) -> None:
        key = target, of_key(target, change.new) if target.keyed else None
        local = self._states.get(key)
        if local is None:
            self._steps.append((target, change))
        elif self._wins(target, change.new, Write.INSERT, local, one):
            self._put(key, local, change.relation_oid, change.new)

    def _delete(self, target: TargetTable, change: Delete, one: Timed) -> None:
        key = target, of_key(target, change.old) if target.keyed else None
        local = self._states.get(key)
        if local is None:
            self._steps.append((target, change))
        elif self._wins(target, change.old, Write.DELETE, local, one):
            self._remove(key, local, change)

    def _update(self, target: TargetTable, change: Update, one: Timed) -> None:
        if not target.keyed:
            self._steps.append((target, change))
            return
        found_by = change.old if change.old is not None else change.new
        before, after = (target, of_key(target, found_by)), (target, of_key(target, change.new))
        if before != after:
            self._move(before, after, change, one)
            return
        local = self._states.get(before)
        if local is None:
            self._steps.append((target, change))
            return
        conflicts = conflict_of(Write.UPDATE, local, one.remote) is not None
        if not self._wins(target, found_by, Write.UPDATE, local, one):
            return
        # Later changes of this key meet a row of the other side, unless values of this side remain in it.
        new = self._complete(target, change, local, one) if conflicts else change.new
        if local.exists:
            self._steps.append((target, change._replace(new=new)))
            self._states[before] = Local(True)
        else:
            self._put(before, local, change.relation_oid, new)

    def _move(
        self, before: tuple[TargetTable, Key], after: tuple[TargetTable, Key], change: Update, one: Timed
    ) -> None:
        """A change of a key."""
        target = before[0]
        if before not in self._states and after not in self._states:
            self._steps.append((target, change))
            return
        old = self._states.get(before, Local(True))
        new = self._states.get(after, Local(False))
        assert change.old is not None
        changed = conflict_of(Write.DELETE, old, one.remote) is not None
        leaves = self._wins(target, change.old, Write.DELETE, old, one) and old.exists
        arrives = self._wins(target, change.new, Write.INSERT, new, one)
        gone = Delete(change.relation_oid, change.old_kind or "K", change.old)
        if leaves and arrives and not changed:
            if new.exists:
                at = Delete(change.relation_oid, "K", change.new)
                self._steps.append((target, at))
            self._steps.append((target, change))
        else:
            if leaves:
                self._steps.append((target, gone))
            if arrives:
                values = self._complete(target, change, new, one)
                self._put(after, new, change.relation_oid, values)
        if leaves:
            self._states[before] = Local(False)
        elif before not in self._states:
            self._states[before] = old
        self._states[after] = Local(True) if arrives else new

    def _put(self, key: tuple[TargetTable, Key], local: Local, oid: int, new: Values) -> None:
        """Write a whole row."""
        change = Update(oid, None, None, new) if local.exists else Insert(oid, new)
        self._steps.append((key[0], change))
        self._states[key] = Local(True)

    def _remove(self, key: tuple[TargetTable, Key], local: Local, change: Delete) -> None:
        if local.exists:
            self._steps.append((key[0], change))
        self._states[key] = Local(False)

    def _wins(self, target: TargetTable, values: Values, write: Write, local: Local, one: Timed) -> bool:
        """Whether the change is applied. Notes the conflict if there is one. Raises ConflictError."""
        kind = conflict_of(write, local, one.remote)
        if kind is None:
            return True
        decision = decide(self._policy, kind, local, one.remote, self._receiving)
        conflict = conflict_at(target, (kind, decision), values, one, local.changed_at)
        if decision is Decision.STOPPED:
            raise stopped(conflict, self._policy)
        self.conflicts.append(conflict)
        return decision is Decision.APPLIED

    def _complete(self, target: TargetTable, change: Update, local: Local, one: Timed) -> Values:
        """The new row with all values. A value that was not sent is in the old row, if that was sent whole.
        If it is not known, the row here may have another value than the other side, which the policies that
        promise equal rows cannot accept."""
        if UNCHANGED not in change.new:
            return change.new
        if change.old is not None and change.old_kind == "O":
            return tuple(
                old if new is UNCHANGED else new for old, new in zip(change.old, change.new, strict=True)
            )
        if local.exists and self._policy is OnConflict.APPLY_REMOTE:
            return change.new
        kind = ConflictKind.UPDATE_ORIGIN_DIFFERS if local.exists else ConflictKind.UPDATE_DELETED
        conflict = conflict_at(target, (kind, Decision.STOPPED), change.new, one, local.changed_at)
        raise ConflictError(
            conflict,
            f"{_what(conflict)}, and the change does not contain all values of the row",
            f"to have them sent, set REPLICA IDENTITY FULL for the table {target.table} on both sides; "
            + _HOW_TO_GO_ON,
        )


def conflict_at(
    target: TargetTable,
    how: tuple[ConflictKind, Decision],
    values: Values | None,
    one: Timed,
    changed_at: int | None,
) -> Conflict:
    key = target.key_pairs(values) if values is not None else ()
    at = one.remote.committed_at / _US
    return Conflict(target.table, *how, key, Lsn(one.lsn), at, (changed_at or 0) / _US)


_HOW_TO_GO_ON = (
    "then leave the transaction out with `skip-transaction`; if the other side stops at the row, too, leave "
    "that transaction out as well. When later changes have arrived, write the row again on one of the sides"
)


def stopped(conflict: Conflict, policy: OnConflict) -> ConflictError:
    if policy is OnConflict.STOP:
        return ConflictError(
            conflict,
            f"{_what(conflict)}, and conflicts stop the replication",
            "look at the row on both sides; " + _HOW_TO_GO_ON,
        )
    return ConflictError(
        conflict,
        f"{_what(conflict)}, and which change is the last cannot be known",
        "look at the row on both sides; " + _HOW_TO_GO_ON,
    )


def _what(conflict: Conflict) -> str:
    key = ", ".join(f"{name}={value}" for name, value in conflict.key)
    row = f"row {key} of " if key else ""
    return f"a change of {row}table {conflict.table} conflicts with this side ({conflict.kind})"
