"""The conflicts that the appliers have recorded on both servers."""

from __future__ import annotations

from services.coordinator.pipeline.credentials import Credentials
from services.shared.model import ErrorKind, MigrationId, PgmigError, PipelineId
from services.shared.model.view.conflicts import (
    ConflictCount,
    ConflictReport,
    KeyValue,
    RecordedConflict,
)
from services.shared.pg.bookkeeping.conflicts import count_conflicts, read_conflicts
from services.shared.pg.session.connection import connection

MOST = 1000
"""Conflicts of a report. An answer of the API has a limited size."""


async def conflict_report(migration: MigrationId, known: Credentials, limit: int) -> ConflictReport:
    """limit: of the conflicts that are listed; 0: as many as allowed. Raises CREDENTIALS_NEEDED and
    UNREACHABLE."""
    if not known.complete:
        raise PgmigError(
            ErrorKind.CREDENTIALS_NEEDED,
            f"the coordinator does not know the passwords of migration {migration}",
            "give both connection strings to `resume`",
        )
    limit = min(limit or MOST, MOST)
    sides = ((migration.forward, known.destination_uri), (migration.reverse, known.source_uri))
    counts: list[ConflictCount] = []
    conflicts: list[RecordedConflict] = []
    for pipeline, uri in sides:
        found = await _of_side(pipeline, uri, limit)
        counts += found.counts
        conflicts += found.conflicts
    conflicts.sort(key=lambda one: one.resolved_at, reverse=True)
    return ConflictReport(tuple(counts), tuple(conflicts[:limit]))


async def _of_side(pipeline: PipelineId, uri: str, limit: int) -> ConflictReport:
    async with connection(uri, pipeline.subscriber) as conn:
        counted = await count_conflicts(conn, pipeline)
        found = await read_conflicts(conn, pipeline, limit)
    return ConflictReport(
        tuple(
            ConflictCount(pipeline.direction, kind, decision, count)
            for (kind, decision), count in sorted(counted.items())
        ),
        tuple(
            RecordedConflict(
                pipeline.direction,
                one.table,
                one.kind,
                one.decision,
                tuple(KeyValue(column, value) for column, value in one.key),
                one.lsn,
                one.remote_at,
                one.local_at,
                one.resolved_at,
            )
            for one in found
        ),
    )
