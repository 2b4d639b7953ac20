"""What follows when the applier stops at a table that is not what was copied."""

from __future__ import annotations

from services.coordinator.pipeline.pipeline import Pipeline
from services.coordinator.tables.adopt import begin_copy, take_stock
from services.shared.model import PgmigError, Phase

NEW_TABLES = "new partitions are copied, since rows may have come with them"


async def after_drift(pipeline: Pipeline, error: PgmigError) -> Phase:
    """The phase to go on in: copy for new tables, the same one where the destination fits by now.

    Raises the error with what to do about it, or as it is when the look at both sides finds nothing.
    """
    stock = await take_stock(pipeline, error)
    if stock.error is not None:
        raise stock.error from error
    migration = pipeline.migration
    pipeline.reports.cleared()
    if stock.copy:
        begin_copy(pipeline, stock.copy, NEW_TABLES)
        return Phase.COPY
    if not stock.adopted and pipeline.reports.drifted_at == error.lsn:
        raise error
    pipeline.reports.drifted_at = error.lsn
    return migration.phase
