"""Which workers run for a pipeline, and which work each of them is assigned.

All workers of a pipeline work with the same two servers. An assignment's id contains a digest of their
addresses, so that work for a former primary is recognized, also by a coordinator that was started after it
was assigned.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.record import Record
from services.coordinator.pipeline.credentials import NOTHING_GIVEN, Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.workers.registry import MakeWork, WorkerRegistry
from services.shared.model import ApplierWork, AssignmentRef, CopierWork, DecoderWork, Direction, Lsn, Role

TURN = "t"
"""Marks the run of a pipeline in the ids of assignments. No other part of them begins with it."""
ALL_ROLES = (Role.DECODER, Role.COPIER, Role.APPLIER)


def assignment_prefix(record: Record, direction: Direction) -> str:
    """Prefix of the ids of a pipeline's assignments. It identifies this migration, and no other one with the
    same id, and a run of the pipeline, which may run again after the other direction has worked."""
    migration = f"{record.migration_id}-{record.instance}" if record.instance else record.migration_id
    turn = record.pipeline(direction).turn
    return f"{migration}-{TURN}{turn}" if turn else migration


def prefix_at(record: Record, direction: Direction, uris: Credentials) -> str:
    """Prefix of the ids of assignments that work with these servers."""
    digest = hashlib.sha256("\0".join(uris.addresses).encode()).hexdigest()
    return f"{assignment_prefix(record, direction)}-{digest[:8]}"


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
        self._uris = NOTHING_GIVEN

    async def staff(self, *roles: Role) -> None:
        """Assign work to workers of these roles, and stop those of other roles, and of other servers."""
        uris = await self._credentials.both()
        await self.release([role for role in ALL_ROLES if role not in roles])
        await self.release_elsewhere(uris)
        self._uris = uris
        record = self._migration.record
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
                prefix=prefix_at(record, self._pipeline.id.direction, uris),
            )

    async def release_elsewhere(self, uris: Credentials) -> None:
        """Stop all work if any of it is with other servers than these."""
        prefix = prefix_at(self._migration.record, self._pipeline.id.direction, uris)
        running = self._worker_registry.running(self._pipeline.id)
        if not all(one.assignment_id.startswith(f"{prefix}-") for one in running):
            await self.release()

    def works_with(self, uris: Credentials) -> bool:
        """Whether work is assigned for these servers."""
        return self._uris.complete and self._uris.addresses == uris.addresses

    @property
    def _in_use(self) -> Credentials:
        """The connection strings of the servers that all workers use, with their newest passwords. Another
        primary that was found since is used from the next call of `staff` on."""
        known = self._credentials.known
        return known if self.works_with(known) else self._uris

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
        options = self._migration.record.options
        return DecoderWork(
            source_uri=self._in_use.source_uri,
            follow=options.follow,
            may_create=slot is None,
            tables=record.published,
            system_identifier=slot.system_identifier if slot else "",
            timeline=slot.timeline if slot else 0,
            start_lsn=slot.consistent_lsn if slot else Lsn(0),
            flushed_lsn=record.flushed_lsn,
            inserts_only=record.inserts_only,
            sends_generated=record.sends_generated,
            local_only=self._pipeline.without_copy or options.bidirectional,
            sends_seen=options.bidirectional,
        )

    def _copier_work(self) -> CopierWork:
        options = self._migration.record.options
        return CopierWork(
            self._in_use.source_uri,
            self._in_use.destination_uri,
            options.copy_workers,
            options.max_rate,
        )

    def _applier_work(self) -> ApplierWork:
        record, options = self._pipeline.record, self._migration.record.options
        slot = record.slot
        return ApplierWork(
            self._in_use.destination_uri,
            slot.consistent_lsn if slot else Lsn(0),
            slot.timeline if slot else 0,
            (*self._pipeline.copying.floors(), *((one.table, one.floor) for one in record.dropped)),
            tuple(skipped.lsn for skipped in record.skipped),
            options.strict_boundaries,
            (
                *self._routing.routes,
                *self._routing.parted,
            ),  # changes from before it was detached may still arrive
            record.sends_generated,
            record.applier_epoch,
            on_conflict=options.on_conflict if record.seen_us else None,
            seen_us=record.seen_us,
            milestone=record.milestone,
            after_standby=options.confirm_after_standby,
        )
