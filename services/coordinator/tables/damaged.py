"""Tables whose rows violate a unique index of the source. That index is damaged.

The index cannot be built on the destination. Replicated changes cannot reliably correct the table there:
without its key, a DELETE of one of two equal rows finds both. So the record lists the table. When the
migration continues, the table is copied again before its indexes are built, so that rows that were corrected
on the source are copied under its new snapshot.
"""

from __future__ import annotations

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.staffing import Staffing
from services.coordinator.tables.resync import prepare_resync
from services.shared.model import PgmigError, PipelineState
from services.shared.pg.schema.post_data import DuplicateRowError
from services.shared.runtime.assignments import cause


def noted(pipeline: PipelineStatus, exc: Exception) -> Exception:
    """The error to stop with, after the table is recorded. Other errors are returned as they are."""
    error = cause(exc)
    if not isinstance(error, DuplicateRowError):
        return exc
    remedy = (
        f"correct them on the source alone and REINDEX TABLE {error.table} there, then continue: the table "
        "is copied again before its indexes are built"
    )
    if not pipeline.migration.record.options.follow:
        remedy = (
            f"correct them on the source and on the destination and REINDEX TABLE {error.table} on the "
            "source, then continue"
        )
    elif any(one.table == error.table for one in pipeline.copying.records()):
        pipeline.damage_found(error.table)
    else:  # its rows are copied under its root's name
        remedy = (
            f"correct them on the source and REINDEX TABLE {error.table} there, then copy the partitioned "
            f"table again with `pgmig-cli resync-table --id {pipeline.migration.id}`"
        )
    return PgmigError(error.kind, error.message, f"{error.hint}; {remedy}")


async def copy_again(context: Context, routing: Routing, staffing: Staffing) -> PipelineState:
    """Go back to phase copy for the recorded tables."""
    await staffing.release()
    await prepare_resync(context, routing, context.pipeline.record.damaged)
    await context.journal.save()
    return PipelineState.COPY
