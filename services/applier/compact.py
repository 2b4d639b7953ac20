"""Row changes in order, reduced to the fewest statements with the same outcome (rule 13). A pure function.

For each table with a key, only the net effect of the changes on each key is written: deletes, then updates,
then inserts. Foreign keys and ordinary triggers are disabled in the applier's session, so the order
between tables does not matter. TRUNCATE is a barrier for all tables.

`pending` computes the net effect. A change that it cannot express is written as it is, after the
pending changes of its table.

If a set of rows violates a constraint that single changes would not violate (unique keys that swap), or
a row is missing, the writer rolls back and uses `single_row` for that table for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import NamedTuple

from services.applier import pending as _pure
from services.applier.pending import Change, Pending
from services.shared.model import TableId
from services.shared.model.compiled import twin_of
from services.shared.pg.apply.target_table import Operation, TargetTable, truncate
from services.shared.pgoutput import Delete, Insert

_compiled = twin_of(_pure)
_Pending: type[Pending] = _compiled.Pending
_merge: Callable[[Sequence[Step], int, dict[TargetTable, Pending]], int] = _compiled.merge

FEW = 3
"""Fewer rows than this are written by single-row statements, which are cheaper to plan and run."""


class Truncation(NamedTuple):
    """partitioned: those of `tables` that are partitioned on the destination. targets: of the tables."""

    tables: tuple[TableId, ...]
    restart_identity: bool
    partitioned: frozenset[TableId] = frozenset()
    targets: tuple[TargetTable, ...] = ()


Step = tuple[TargetTable, Change] | Truncation


def single(target: TargetTable, change: Change) -> Operation:
    """The operation for the change without compaction."""
    if isinstance(change, Insert):
        return target.insert(change.new)
    if isinstance(change, Delete):
        return target.delete(change.old)
    return target.update(change.old, change.new)


def row_by_row(steps: Iterable[Step]) -> list[Operation]:
    """The operation for every step without compaction, in order."""
    return [_truncate(step) if isinstance(step, Truncation) else single(*step) for step in steps]


def _truncate(step: Truncation) -> Operation:
    return truncate(step.tables, restart_identity=step.restart_identity, partitioned=step.partitioned)


def compact(steps: Sequence[Step], single_row: Container[TableId] = ()) -> list[Operation]:
    """Statements with the same outcome as `row_by_row(steps)`. single_row: tables whose changes are
    written one by one."""
    operations: list[Operation] = []
    pending: dict[TargetTable, Pending] = {}
    at = 0
    while (at := _merge(steps, at, pending)) < len(steps):
        step = steps[at]
        if isinstance(step, Truncation):
            for target, table in pending.items():
                operations += _operations(target, table)
            operations.append(_truncate(step))
            at += 1
            continue
        target, change = step
        if target not in pending:
            alone = target.row_by_row or target.table in single_row
            pending[target] = _Pending(target.where, alone=alone)
            continue
        operations += _operations(target, pending[target])
        if not pending[target].add(change):
            operations.append(single(target, change))
        at += 1
    for target, table in pending.items():
        operations += _operations(target, table)
    return operations


def _operations(target: TargetTable, table: Pending) -> list[Operation]:
    """Statements for the pending changes; nothing is pending afterwards."""
    net = table.take()
    operations: list[Operation] = []
    if len(net.deletes) < FEW:
        operations += [target.delete(row) for _, row in net.deletes]
    else:
        operations.append(target.delete_many([key for key, _ in net.deletes]))
    for rows in net.updates.values():
        if len(rows) < FEW:
            operations += [target.update(None, row) for row in rows]
        else:
            operations.append(target.update_many(rows, target.touched(rows[0])))
    if len(net.inserts) < FEW or not target.inserted:
        operations += [target.insert(row) for row in net.inserts]
    else:
        operations.append(target.insert_many(net.inserts))
    return operations
