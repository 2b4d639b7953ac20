"""From tables to parts of copying: how each is cut, what is left, in which order and format."""

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
"""Of one table: each costs a message, a ledger entry and a transaction."""

_NUMBERED = re.compile(r'(".*") \d+/\d+', re.DOTALL)


def part_id(table: TableId, number: int = 1, of: int = 1) -> str:
    """Quoted like an SQL identifier, so that no two tables share one: `"s"."t"`, or `"s"."t" 3/8`."""
    key = ".".join('"' + name.replace('"', '""') + '"' for name in (table.schema, table.name))
    return key if of == 1 else f"{key} {number}/{of}"


def table_key(part: str) -> str:
    """The id of the whole table that a part belongs to. A name ends with a quotation mark, so what
    follows the last one is ours."""
    match = _NUMBERED.fullmatch(part)
    return match[1] if match else part


def part_ids(plan: CopyPlan) -> tuple[str, ...]:
    of = len(plan.split.ranges())
    return tuple(part_id(plan.table, number, of) for number in range(1, of + 1))


def wants_key(table: SourceTable, larger_than: int, source_version: int) -> bool:
    """Whether the table can be split only by its key, whose bounds must be known for that."""
    return (
        source_version < TID_RANGE_SCAN_SINCE
        and bool(table.integer_key)
        and table.bytes_estimated > larger_than
    )


def choose_split(
    table: SourceTable, larger_than: int, source_version: int, bounds: tuple[int, int] | None
) -> Split:
    """As many parts as bring each near or below `larger_than` bytes; bounds: of the integer key."""
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
    """Parts that count, by table key and part id."""
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
    """Plans that begin anew, and the ledger's parts that they make void.

    A complete table keeps its plan (where changes are followed: under whatever snapshot it was
    copied), and so does one that is being copied under this very snapshot. splits: for new plans.
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
    """Tables as they are copied: in place of partitions that the destination lacks, their root.
    All its rows arrive in one transaction, so that none empties the table of another's."""
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
    """Parts that are not copied yet, the largest first. copied: part ids. versions:
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
