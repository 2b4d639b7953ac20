"""How the migration continues after the applier stopped at a table that differs from what was copied."""

from __future__ import annotations

from services.coordinator.pipeline.parts import Context, Schema
from services.coordinator.pipeline.reports import Reports
from services.coordinator.tables.adopt import begin_copy, compare_tables
from services.shared.model import PgmigError, PipelineState

NEW_TABLES = "new partitions are copied, since they may already contain rows"


async def after_drift(context: Context, schema: Schema, reports: Reports, error: PgmigError) -> PipelineState:
    """The phase to continue in: copy for new tables, the same phase if the destination matches now.

    Raises the error with a hint about what to do, or unchanged if comparing both sides finds no difference.
    """
    compared = await compare_tables(context, schema, error)
    if compared.error is not None:
        raise compared.error from error
    pipeline = context.pipeline
    reports.cleared()
    if compared.copy:
        begin_copy(context.pipeline, compared.copy, NEW_TABLES)
        return PipelineState.COPY
    if not compared.adopted and reports.drifted_at == error.lsn:
        raise error
    reports.drifted_at = error.lsn
    return pipeline.state
