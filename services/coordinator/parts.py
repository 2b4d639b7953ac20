"""From tables to parts of copying: what is left, in which order, and in which format."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from services.shared.model import CopyPart, Route, SnapshotReady, SourceTable, TableId
from services.shared.pg.copy_format import binary_safe


def part_id(table: TableId) -> str:
    """Quoted like an SQL identifier, so that no two tables share one."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in (table.schema, table.name))


def gathered(tables: Iterable[SourceTable], routes: Iterable[Route]) -> tuple[SourceTable, ...]:
    """Tables as they are copied: in place of partitions that the destination lacks, their root.
    All its rows arrive in one transaction, so that none empties the table of another's."""
    roots = {route.leaf: route.root for route in routes}
    found: dict[TableId, SourceTable] = {}
    for table in tables:
        name = roots.get(table.table, table.table)
        before = found.get(name)
        found[name] = replace(
            table,
            table=name,
            rows_estimated=table.rows_estimated + (before.rows_estimated if before else 0),
            bytes_estimated=table.bytes_estimated + (before.bytes_estimated if before else 0),
        )
    return tuple(found.values())


def plan_parts(
    tables: Iterable[SourceTable], copied: Collection[str], snapshot: SnapshotReady, versions: tuple[int, int]
) -> tuple[CopyPart, ...]:
    """Parts that are not copied yet, the largest first. versions: server_version_num of source
    and destination."""
    left = [table for table in tables if part_id(table.table) not in copied]
    left.sort(key=lambda table: (-table.bytes_estimated, table.table))
    parts = []
    for table in left:
        columns = [column for column in table.columns if not column.generated]
        parts.append(
            CopyPart(
                part_id=part_id(table.table),
                table=table.table,
                columns=tuple(column.name for column in columns),
                snapshot_name=snapshot.snapshot_name,
                snapshot_lsn=snapshot.lsn,
                binary=binary_safe((column.type_oid for column in columns), *versions),
                snapshot_xids=snapshot.xids,
            )
        )
    return tuple(parts)
