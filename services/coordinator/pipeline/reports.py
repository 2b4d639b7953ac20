"""The reports of a pipeline's workers, for the phases and the switchover.

Progress is stored in the pipeline's status. This module stores what phases and the switchover wait for: the
error that ends the running phase, parts that could not be copied, and sentinels that were applied.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import SlotRecord
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.retries import Retries
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.pipeline.staffing import TURN, assignment_prefix
from services.coordinator.workers.registry import error_of
from services.shared.model import (
    ApplierProgress,
    AssignmentFailed,
    AssignmentRef,
    AssignmentRetrying,
    DecoderProgress,
    ErrorKind,
    EventLevel,
    Lsn,
    PartDone,
    PartProgress,
    PgmigError,
    Role,
    SentinelApplied,
    SlotReady,
    SnapshotReady,
    WorkerReport,
)
from services.shared.runtime.changes import Changes

log = logging.getLogger(__name__)

STREAM_FULL = (
    "the change stream is full: the decoder waits and the source keeps its WAL; see why the applier does "
    "not keep up (it starts after the copy), or raise PGMIG_MAX_STREAM_BYTES"
)


def unexpected(migration: Migration, exc: BaseException) -> PgmigError:
    """An exception that is not a PgmigError, for the operator. The log contains it in full."""
    log.error("migration %s: unexpected error", migration.id, exc_info=exc)
    return PgmigError(
        ErrorKind.INTERNAL, f"unexpected {type(exc).__name__} in the coordinator", "see its log"
    )


class Reports:
    """Of one pipeline; the listener of the worker registry.

    fatal: the error that ends the running phase. part_errors: part id, and why its copy failed.
    drifted_at: where the applier last stopped at an altered table. sentinels: by token.
    """

    def __init__(self, pipeline: PipelineStatus, snapshot: Snapshot, changes: Changes) -> None:
        self._pipeline = pipeline
        self._migration = pipeline.migration
        self._snapshot = snapshot
        self._changes = changes
        self._unstaffed: set[Role] = set()
        self._retries = Retries()
        self.sentinels: dict[str, SentinelApplied] = {}
        self.part_errors: list[tuple[str, PgmigError]] = []
        self.fatal: PgmigError | None = None
        self.drifted_at: Lsn | None = None

    def notify(self) -> None:
        """Let `until` check its condition again."""
        self._changes.announce()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds. It is checked after every report."""
        await self._changes.until(condition)

    async def until_fatal(self) -> PgmigError:
        """The error that ends the running phase."""
        await self.until(lambda: self.fatal is not None)
        assert self.fatal is not None
        return self.fatal

    def end_phase(self, error: PgmigError) -> None:
        """End the running phase with this error, unless another one ends it already."""
        self.fatal = self.fatal or error
        self.notify()

    def cleared(self) -> None:
        """Forget the errors of the last run of a phase."""
        self.fatal = None
        self.part_errors.clear()
        self._retries.clear()

    # What the worker registry calls.

    def accepts(self, assignment: AssignmentRef) -> bool:
        prefix = assignment_prefix(self._migration.record, self._pipeline.id.direction)
        known, _, rest = assignment.assignment_id.partition(f"{prefix}-")
        if known or not rest or rest.startswith(TURN):
            return False  # of an earlier migration with the same id, or of an earlier run of the pipeline
        return self._pipeline.running  # one that is idle would write over changes of the other direction

    def given(self, assignment: AssignmentRef) -> None:
        self._unstaffed.discard(assignment.role)
        self._snapshot.attached()
        self._migration.touch()
        self.notify()

    def gone(self, role: Role) -> None:
        if role is Role.DECODER:
            self._snapshot.lost()
        if role is Role.APPLIER:
            self._pipeline.following.applier_gone()
        article = "a" if role is Role.COPIER else "the"
        self._migration.event(EventLevel.WARNING, f"{article} {role} has stopped its work, or was lost")
        self.notify()

    def unstaffed(self, role: Role) -> None:
        if role not in self._unstaffed:
            self._unstaffed.add(role)
            self._migration.event(EventLevel.WARNING, f"no {role} is attached: waiting for one")

    def failed(self, role: Role, error: PgmigError) -> None:
        if not error.policy.retry and self.fatal is None:
            self.fatal = error  # the failure of the migration reports it
        else:
            self._migration.event(
                EventLevel.WARNING if error.policy.retry else EventLevel.ERROR, f"{role}: {error}"
            )
            if role is Role.APPLIER:
                self._pipeline.following.applier_failed(error.message)
        self.notify()

    def reported(self, role: Role, report: WorkerReport) -> None:
        now = time.monotonic()
        migration, pipeline = self._migration, self._pipeline
        match report:
            case SlotReady():
                self._slot_ready(report)
            case SnapshotReady():
                self._snapshot.ready(report)
            case DecoderProgress():
                pipeline.following.decoder(now, report)
                migration.touch()
                if pipeline.following.stream_filled(now, report):
                    migration.event(EventLevel.WARNING, STREAM_FULL)
            case PartProgress() | PartDone():
                pipeline.copying.report(report)
                migration.touch()
            case ApplierProgress():
                pipeline.following.applier(report)
                migration.touch()
            case SentinelApplied():
                self.sentinels[report.token] = report
            case AssignmentRetrying():
                if role is Role.APPLIER:
                    pipeline.following.applier_failed(report.message)
                if line := self._retries.line(now, role, report):
                    migration.event(EventLevel.WARNING, line)
            case AssignmentFailed():
                self.part_errors.append((report.part_id, error_of(report)))
        self.notify()

    def _slot_ready(self, report: SlotReady) -> None:
        if self._pipeline.record.slot is not None:
            return
        slot = SlotRecord(report.consistent_lsn, report.system_identifier, report.timeline)
        self._pipeline.slot_ready(slot)
        if self._migration.record.options.follow:
            self._migration.event(EventLevel.INFO, f"replication slot begins at {report.consistent_lsn}")
