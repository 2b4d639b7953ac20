"""From tables to parts of copying: what is left, in which order, and in which format."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from services.shared.model import CopyPart, Lsn, SourceTable, TableId

# Types whose binary form is the same on every server we support and holds no OID that differs
# between databases (reg* types do; so do arrays and composites of user-defined types).
_SCALARS = frozenset(
    {16, 17, 18, 19, 20, 21, 23, 25, 26, 114, 142, 600, 601, 603, 604, 628, 650, 700, 701, 718, 774, 829}
    | {869, 1042, 1043, 1082, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700, 2950, 3614, 3802}
    | {3904, 3906, 3908, 3910, 3912, 3926}
)
_ARRAYS = frozenset(
    {199, 1000, 1001, 1005, 1007, 1009, 1014, 1015, 1016, 1021, 1022, 1041, 1115, 1182, 1183, 1185, 1187}
    | {1231, 2951, 3807}
)
_PORTABLE = _SCALARS | _ARRAYS


def part_id(table: TableId) -> str:
    """Quoted like an SQL identifier, so that no two tables share one."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in (table.schema, table.name))


def plan_parts(
    tables: Iterable[SourceTable], copied: Collection[str], snapshot: str, snapshot_lsn: Lsn
) -> tuple[CopyPart, ...]:
    """Parts that are not copied yet, the largest first."""
    left = [table for table in tables if part_id(table.table) not in copied]
    left.sort(key=lambda table: (-table.bytes_estimated, table.table))
    return tuple(
        CopyPart(
            part_id=part_id(table.table),
            table=table.table,
            columns=tuple(column.name for column in table.columns if not column.generated),
            snapshot_name=snapshot,
            snapshot_lsn=snapshot_lsn,
            binary=all(column.type_oid in _PORTABLE for column in table.columns if not column.generated),
        )
        for table in left
    )
