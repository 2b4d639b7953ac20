"""Divides tables into parts for the copy, and plans the parts that are not copied yet."""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from services.shared.model import (
    CopiedPart,
    CopyPart,
    CopyPlan,
    Route,
    SnapshotReady,
    SourceTable,
    Split,
    TableId,
)
from services.shared.pg.bookkeeping.copy_ledger import CopyLedger
from services.shared.pg.copy.binary_format import binary_safe

TID_RANGE_SCAN_SINCE = 140000
MOST_PARTS = 1000
"""Limit for one table. Each part costs a message, a ledger entry and a transaction."""

_NUMBERED = re.compile(r'(".*") \d+/\d+', re.DOTALL)


def part_id(table: TableId, number: int = 1, of: int = 1) -> str:
    """Names are quoted like SQL identifiers, so that ids are unique: `"s"."t"`, or `"s"."t" 3/8`."""
    key = ".".join('"' + name.replace('"', '""') + '"' for name in (table.schema, table.name))
    return key if of == 1 else f"{key} {number}/{of}"


def table_key(part: str) -> str:
    """The `part_id` of the complete table that a part belongs to. A quoted name ends with a quotation mark.
    So the text after the last one is the part's number."""
    match = _NUMBERED.fullmatch(part)
    return match[1] if match else part


def part_ids(plan: CopyPlan) -> tuple[str, ...]:
    of = len(plan.split.ranges())
    return tuple(part_id(plan.table, number, of) for number in range(1, of + 1))


def wants_key(table: SourceTable, larger_than: int, source_version: int) -> bool:
    """Whether the table can be split only by its integer key. The caller must then read the key's bounds."""
    return (
        source_version < TID_RANGE_SCAN_SINCE
        and bool(table.integer_key)
        and table.bytes_estimated > larger_than
    )


def choose_split(
    table: SourceTable, larger_than: int, source_version: int, bounds: tuple[int, int] | None
) -> Split:
    """Choose the number of parts so that each has about `larger_than` bytes or less. bounds: lowest and
    highest value of the integer key."""
    parts = min(MOST_PARTS, -(-table.bytes_estimated // max(1, larger_than)))
    if source_version >= TID_RANGE_SCAN_SINCE:
        parts = min(parts, table.pages)
        return Split(parts, pages=table.pages) if parts > 1 else Split()
    if bounds is None:
        return Split()
    low, high = bounds
    parts = min(parts, high - low + 1)
    return Split(parts, column=table.integer_key, low=low, high=high) if parts > 1 else Split()


def copied_by_table(ledger: CopyLedger) -> dict[str, dict[str, CopiedPart]]:
    """Copied parts of the current plans, by table key and part id."""
    epochs = {part_id(plan.table): plan.epoch for plan in ledger.plans.values()}
    copied: dict[str, dict[str, CopiedPart]] = defaultdict(dict)
    for part, entry in ledger.parts.items():
        key = table_key(part)
        if epochs.get(key) == entry.epoch:
            copied[key][part] = entry
    return copied


def renew_plans(
    tables: Iterable[SourceTable],
    splits: Mapping[TableId, Split],
    ledger: CopyLedger,
    snapshot: SnapshotReady,
    *,
    follow: bool,
) -> tuple[tuple[CopyPlan, ...], tuple[str, ...]]:
    """Return new plans, and the parts in the ledger that these plans make void.

    A table that is being copied under this same snapshot keeps its plan. If changes are replicated, a
    completely copied table keeps its plan under any snapshot. splits: for new plans.
    """
    copied = copied_by_table(ledger)
    entered: dict[str, list[str]] = defaultdict(list)
    for part in ledger.parts:
        entered[table_key(part)].append(part)
    new, void = [], []
    for table in tables:
        plan, key = ledger.plans.get(table.table), part_id(table.table)
        if plan is not None:
            current = plan.snapshot == snapshot.identity
            complete = len(copied[key]) == len(plan.split.ranges())
            if current or (complete and follow):
                continue
        split = splits.get(table.table, Split())
        new.append(CopyPlan(table.table, secrets.token_hex(8), snapshot.identity, split))
        void += entered[key]
    return tuple(new), tuple(void)


def gathered(tables: Iterable[SourceTable], routes: Iterable[Route]) -> tuple[SourceTable, ...]:
    """Tables under the names by which they are copied. Partitions that the destination does not have are
    replaced by their root. All rows of the root are written in one transaction: a part empties the table
    first, so several parts would delete each other's rows."""
    roots = {route.leaf: route.root for route in routes}
    found: dict[TableId, SourceTable] = {}
    for table in tables:
        name = roots.get(table.table)
        if name is None:
            found[table.table] = table
            continue
        before = found.get(name)
        found[name] = replace(
            table,
            table=name,
            pages=0,  # it is copied in one part
            integer_key="",
            rows_estimated=table.rows_estimated + (before.rows_estimated if before else 0),
            bytes_estimated=table.bytes_estimated + (before.bytes_estimated if before else 0),
        )
    return tuple(found.values())


def plan_parts(
    tables: Iterable[SourceTable],
    plans: Mapping[TableId, CopyPlan],
    copied: Collection[str],
    snapshot: SnapshotReady,
    versions: tuple[int, int],
) -> tuple[CopyPart, ...]:
    """Parts that are not copied yet, the largest first. copied: ids of copied parts. versions:
    server_version_num of source and destination."""
    parts: list[tuple[float, CopyPart]] = []
    for table in tables:
        plan = plans[table.table]
        columns = [column for column in table.columns if not column.generated]
        ranges = plan.split.ranges()
        for name, rows in zip(part_ids(plan), ranges, strict=True):
            if name in copied:
                continue
            part = CopyPart(
                part_id=name,
                table=table.table,
                columns=tuple(column.name for column in columns),
                snapshot_name=snapshot.snapshot_name,
                snapshot_lsn=snapshot.lsn,
                binary=binary_safe((column.type_oid for column in columns), *versions),
                snapshot_xids=snapshot.xids,
                epoch=plan.epoch,
                rows=rows,
            )
            parts.append((table.bytes_estimated / len(ranges), part))
    parts.sort(key=lambda sized: (-sized[0], sized[1].table))
    return tuple(part for _, part in parts)
