"""Which workers run for a pipeline, and which work each of them is assigned."""

from __future__ import annotations

import time
from collections.abc import Collection

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import Record
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.workers.registry import MakeWork, WorkerRegistry
from services.shared.model import ApplierWork, AssignmentRef, CopierWork, DecoderWork, Lsn, Role

ALL_ROLES = (Role.DECODER, Role.COPIER, Role.APPLIER)


def assignment_prefix(record: Record) -> str:
    """Prefix of the assignments' ids. It identifies this migration, and no other one with the same id."""
    return f"{record.migration_id}-{record.instance}" if record.instance else record.migration_id


class Staffing:
    """The staffing of one pipeline. embedded: there is one worker of each role. restored: the migration was
    found in the store, so workers may still run for it."""

    def __init__(
        self,
        pipeline: PipelineStatus,
        worker_registry: WorkerRegistry,
        credentials: PipelineEnds,
        snapshot: Snapshot,
        routing: Routing,
        *,
        embedded: bool,
        restored: bool,
    ) -> None:
        self._pipeline = pipeline
        self._migration = pipeline.migration
        self._worker_registry = worker_registry
        self._credentials = credentials
        self._snapshot = snapshot
        self._routing = routing
        self._embedded = embedded
        self._restored_at = time.monotonic() if restored else None

    async def staff(self, *roles: Role) -> None:
        """Assign work to workers of these roles, and stop those of other roles."""
        await self._credentials.both()
        record = self._migration.record
        await self.release([role for role in ALL_ROLES if role not in roles])
        makers: dict[Role, MakeWork] = {
            Role.DECODER: self._decoder_work,
            Role.COPIER: self._copier_work,
            Role.APPLIER: self._applier_work,
        }
        for role in roles:
            self._worker_registry.want(
                self._pipeline.id,
                role,
                makers[role],
                wait_s=self._patience(role),
                prefix=assignment_prefix(record),
            )

    def _patience(self, role: Role) -> float:
        """After a coordinator's restart its workers get time to connect again before others start. In an
        embedded stack there is only one worker of each role, so the one that attaches gets the work."""
        if self._embedded or self._restored_at is None or self.assignment(role) is not None:
            return 0.0
        return max(0.0, self._restored_at + self._worker_registry.grace_s - time.monotonic())

    async def release(self, roles: Collection[Role] = ALL_ROLES) -> bool:
        """Stop the roles' work. Returns whether all of it is known to have stopped. Without an applier no
        switchover begins, whatever the state of the pipeline is."""
        if Role.DECODER in roles:
            self._snapshot.lost()
        try:
            return await self._worker_registry.release(self._pipeline.id, roles)
        finally:
            if Role.APPLIER in roles:  # it may have reported until it stopped
                self._pipeline.following.applier_gone()

    def assignment(self, role: Role) -> AssignmentRef | None:
        return self._worker_registry.current(self._pipeline.id, role)

    def _decoder_work(self) -> DecoderWork:
        record, slot = self._pipeline.record, self._pipeline.record.slot
        return DecoderWork(
            source_uri=self._credentials.known.source_uri,
            follow=self._migration.record.options.follow,
            may_create=slot is None,
            tables=record.published,
            system_identifier=slot.system_identifier if slot else "",
            timeline=slot.timeline if slot else 0,
            start_lsn=slot.consistent_lsn if slot else Lsn(0),
            flushed_lsn=record.flushed_lsn,
            inserts_only=record.inserts_only,
            sends_generated=record.sends_generated,
        )

    def _copier_work(self) -> CopierWork:
        options = self._migration.record.options
        return CopierWork(
            self._credentials.known.source_uri,
            self._credentials.known.destination_uri,
            options.copy_workers,
            options.max_rate,
        )

    def _applier_work(self) -> ApplierWork:
        record, options = self._pipeline.record, self._migration.record.options
        slot = record.slot
        return ApplierWork(
            self._credentials.known.destination_uri,
            slot.consistent_lsn if slot else Lsn(0),
            (*self._pipeline.copying.floors(), *((one.table, one.floor) for one in record.dropped)),
            tuple(skipped.lsn for skipped in record.skipped),
            options.strict_boundaries,
            (
                *self._routing.routes,
                *self._routing.parted,
            ),  # changes from before it was detached may still arrive
            record.sends_generated,
            record.applier_epoch,
        )
