"""Watching the source's tables while changes are replicated.

A difference stops the migration only after everything before it is applied. Then the operator's DDL on the
destination finds the same rows as the same DDL found on the source.
"""

from __future__ import annotations

import asyncio
import time

from services.coordinator.migration.pace import pause
from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.parts import Context, Schema
from services.coordinator.pipeline.reports import Reports
from services.coordinator.tables.adopt import TableComparison, try_compare_tables
from services.shared.model import (
    EventLevel,
    Lsn,
    TableId,
)

LOOK_EVERY_S = 3.0
LONGEST_PAUSE_S = 60.0
PAGE_HEADER = 64
"""Bytes: the WAL's end may lie behind the header of a page that no record has reached yet."""


async def watch_tables(context: Context, schema: Schema, reports: Reports) -> tuple[TableId, ...]:
    """Return tables that have to be copied. Raises SCHEMA_DRIFT after everything before the comparison is
    applied."""
    pipeline = context.pipeline
    migration = context.migration
    reported: set[TableId] = set()
    while True:
        began = time.monotonic()
        compared = await try_compare_tables(context, schema) if not migration.in_switchover else None
        took = time.monotonic() - began
        if compared is not None:
            pipeline.servers.unreplicated = compared.unpublished
            _report_unpublished(context.pipeline, compared, reported)
            if compared.error is not None or compared.copy:
                await _applied(context.pipeline, reports, compared.at)
                # Compare again: the operator may have run the DDL in the meantime.
                again = await try_compare_tables(context, schema) if not migration.in_switchover else None
                if again is not None and again.error is not None:
                    raise again.error
                if again is not None and again.copy:
                    return again.copy
        await asyncio.sleep(min(LONGEST_PAUSE_S, pause(LOOK_EVERY_S, took)))


async def _applied(pipeline: PipelineStatus, reports: Reports, at: Lsn) -> None:
    following = pipeline.following

    def reached() -> bool:
        return following.applied.value + PAGE_HEADER >= at.value

    if not reached():
        pipeline.migration.event(
            EventLevel.WARNING,
            f"tables were altered on the {pipeline.id.publisher}: changes are applied up to {at} first",
        )
    await reports.until(reached)


def _report_unpublished(pipeline: PipelineStatus, compared: TableComparison, reported: set[TableId]) -> None:
    new = [table for table in compared.unpublished if table not in reported]
    if new:
        reported.update(new)
        named = ", ".join(map(str, new[:5])) + (" and more" if len(new) > 5 else "")
        side = pipeline.id.publisher
        what = "add them with resync-table"
        if pipeline.without_copy:
            what = (
                "they cannot be added, and the next switchover or rollback is refused until they are dropped"
            )
        pipeline.migration.event(
            EventLevel.WARNING, f"new tables of the {side} are not replicated: {named}; {what}"
        )
