"""Makes the certificate of a switchover.

The draft has everything that is known before the decision, and is stored by the same write as the decision.
The certificate is issued when the switchover has ended: then the downtime is measured. If the coordinator
ends before that, the next one issues the draft, in which the downtime is not measured.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.metadata import version

from services.coordinator.migration.certificates import drafted
from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import Record
from services.coordinator.migration.state import EVENTS_KEPT
from services.coordinator.operations.evidence import Evidence
from services.coordinator.pipeline.parts import Context
from services.shared.model import (
    Direction,
    EventLevel,
    FreezeMode,
    Lsn,
    MigrationOptions,
    Operation,
    PgmigError,
    SwitchoverResult,
)
from services.shared.model.view.certificate import (
    FORMAT,
    Certificate,
    CertifiedFreeze,
    CertifiedMigration,
    CertifiedOperation,
    CertifiedOptions,
    CertifiedPositions,
    CertifiedSequence,
    CertifiedSkip,
    CertifiedVolume,
    CertifiedWarning,
    CertifiedWrite,
    NotFollowed,
    StoredCertificate,
    instant,
)

log = logging.getLogger(__name__)


def draft(pipeline: PipelineStatus, evidence: Evidence, result: SwitchoverResult) -> StoredCertificate:
    """The certificate of the running operation, before the decision. Raises INTERNAL if a check was not
    made."""
    evidence.check_complete()
    migration, own = pipeline.migration, pipeline.record
    operation, record = migration.operations.current, migration.record
    assert operation is not None
    assert evidence.source is not None
    assert evidence.destination is not None
    certificate = Certificate(
        format=FORMAT,
        pgmig_version=version("pgmig"),
        migration=CertifiedMigration(record.migration_id, record.instance, instant(record.created_at)),
        operation=_operation(operation, pipeline.id.direction),
        options=_options(record.options),
        source=evidence.source,
        destination=evidence.destination,
        freeze=CertifiedFreeze(
            FreezeMode.DATABASE if evidence.blocks else FreezeMode.NONE,
            instant(evidence.blocked_at),
            instant(evidence.closed_at),
            instant(result.finished_at),
        ),
        positions=CertifiedPositions(
            own.slot.consistent_lsn if own.slot else Lsn(0),
            evidence.sentinel,
            result.sentinel_lsn,
            evidence.progress,
        ),
        volume=_volume(pipeline),
        checks=evidence.checks(),
        sequences=tuple(
            CertifiedSequence(one.sequence.schema, one.sequence.name, str(one.last_value), one.called)
            for one in evidence.sequences
        ),
        not_followed=NotFollowed(own.inserts_only, own.copied_only, evidence.unlogged),
        skipped_transactions=tuple(
            CertifiedSkip(one.lsn, str(one.xid), instant(one.at), one.who, one.reason) for one in own.skipped
        ),
        constraints_not_valid=evidence.not_valid,
        destination_writes=tuple(
            CertifiedWrite(one.table.schema, one.table.name, one.session, instant(one.at))
            for one in evidence.written
        ),
        warnings=_warnings(record),
        warnings_complete=len(record.events) < EVENTS_KEPT,
    )
    return drafted(operation.operation_id, certificate)


def _operation(operation: Operation, direction: Direction) -> CertifiedOperation:
    return CertifiedOperation(
        operation.operation_id,
        operation.request_id,
        operation.kind,
        direction,
        instant(operation.started_at),
        operation.options.timeout_ms,
        operation.options.hold,
    )


def _options(options: MigrationOptions) -> CertifiedOptions:
    return CertifiedOptions(
        options.selection,
        options.no_key_tables,
        options.large_objects,
        options.data_only,
        options.no_owner,
        options.no_acl,
        options.skip_objects,
        options.no_guard_destination,
    )


def _volume(pipeline: PipelineStatus) -> CertifiedVolume:
    migration, tables = pipeline.migration, pipeline.record.tables
    applied = pipeline.following.totals()
    return CertifiedVolume(
        len(tables),
        str(sum(one.rows for one in tables)),
        str(sum(one.bytes for one in tables)),
        str(applied.transactions),
        str(applied.rows),
        instant(migration.loaded_at or migration.record.created_at),
        since_start=not migration.loaded_at,
    )


def _warnings(record: Record) -> tuple[CertifiedWarning, ...]:
    return tuple(
        CertifiedWarning(instant(event.at), event.text)
        for event in record.events
        if event.level is EventLevel.WARNING
    )


async def issue(context: Context, result: SwitchoverResult, *, stopped: bool) -> SwitchoverResult:
    """Issue the certificate of the switchover that has just been decided, with what was measured. Returns the
    result with the certificate's digest. If the store does not answer, the certificate stays a draft: it is
    issued when somebody asks for it, or by the next coordinator. stopped: all workers have stopped."""
    migration = context.migration
    migration.downtime_measured(result, workers_stopped=stopped)
    try:
        await context.journal.issue()
    except PgmigError as exc:
        log.error("the certificate of migration %s is not issued yet: %s", migration.id, exc)
        return result
    issued = migration.record.switchover
    return result if issued is None else replace(result, certificate_sha256=issued.certificate_sha256)
