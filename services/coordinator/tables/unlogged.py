"""Unlogged tables of the destination. A crash of its server empties them after they were copied.

Their changes are not replicated, so until the switchover the destination must have at least as many rows as
were copied. The rows are counted: otherwise parts that were copied after the crash would hide it.
During the freeze, when writers wait, it is enough to find one row in each table. All rows were counted just
before, nothing is copied since then, and a crash leaves no row.
"""

from __future__ import annotations

from services.coordinator.pipeline.parts import Context
from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.catalog.unlogged import count_unlogged
from services.shared.pg.session.connection import connection


async def check_unlogged(context: Context, *, frozen: bool = False) -> None:
    """Raises COPY_FAILED with the names of unlogged tables that have lost rows on the destination. A pipeline
    without a copy has filled none.

    frozen: the rows were counted before the freeze, so one row of each table is enough.
    """
    pipeline = context.pipeline
    migration = context.migration
    copied = {record.table: record.rows for record in pipeline.copying.records() if record.rows}
    if not copied or pipeline.without_copy:
        return
    expected = dict.fromkeys(copied, 1) if frozen else copied
    uris = await context.credentials.both()
    async with connection(uris.destination_uri, "destination") as conn:
        counted = await count_unlogged(conn, 1 if frozen else None)
    lost = [
        f"{table} ({rows} of {copied[table]} rows)"
        for table, rows in counted.items()
        if rows < expected.get(table, 0)
    ]
    if lost:
        again = f"pgmig-cli resync-table --id {migration.id} SCHEMA.TABLE"
        raise PgmigError(
            ErrorKind.COPY_FAILED,
            f"unlogged tables have lost rows on the destination since they were copied: {', '.join(lost)}",
            "a crash of the destination empties unlogged tables: "
            + (
                f"copy them again with {again}"
                if migration.record.options.follow
                else "copy their rows by hand (pg_dump --data-only --table), then continue"
            ),
        )
