"""What the phases of one migration share: state, workers, credentials, servers' addresses.

It listens to the workers' reports, keeps the migration's state up to date with them, and lets
phases wait for a condition. A worker's error that no retry cures ends the phase that runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.record import SlotRecord
from services.coordinator.migration.state import Migration
from services.coordinator.migration.state_file import ARCHIVE, folder, remove_state
from services.coordinator.pipeline.credentials import Credentials, KnownCredentials
from services.coordinator.pipeline.retries import Retries
from services.coordinator.workers.registry import MakeWork, Workforce, error_of
from services.shared.bus.connection import Client
from services.shared.model import (
    ApplierProgress,
    ApplierWork,
    AssignmentFailed,
    AssignmentRef,
    AssignmentRetrying,
    CloseSnapshot,
    CopierWork,
    DecoderProgress,
    DecoderWork,
    ErrorKind,
    EventLevel,
    Lsn,
    OpenSnapshot,
    PartDone,
    PartProgress,
    PgmigError,
    Role,
    Route,
    SentinelApplied,
    SlotReady,
    SnapshotReady,
    WorkerReport,
)
from services.shared.runtime.changes import Changes

log = logging.getLogger(__name__)

ALL_ROLES = (Role.DECODER, Role.COPIER, Role.APPLIER)
STREAM_FULL = (
    "the change stream is full: the decoder waits and the source keeps its WAL; see why the applier does "
    "not keep up (it starts after the copy), or raise PGMIG_MAX_STREAM_BYTES"
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all migrations of one coordinator share. source_uri, destination_uri: its own
    settings, a fallback for credentials. embedded: they were given for the one migration that it has,
    so the password file does not stand in for them."""

    bus: Client
    workforce: Workforce
    state_dir: Path
    source_uri: str | None = None
    destination_uri: str | None = None
    embedded: bool = False


class Pipeline:
    """restored: the migration was found in the store, so workers may still run for it."""

    def __init__(
        self, migration: Migration, journal: Journal, around: Surroundings, *, restored: bool = False
    ) -> None:
        self.migration = migration
        self.journal = journal
        self.bus = around.bus
        self.snapshot: SnapshotReady | None = None
        self.sentinels: dict[str, SentinelApplied] = {}
        self.part_errors: list[tuple[str, PgmigError]] = []  # part id, why its copy failed
        self.fatal: PgmigError | None = None
        self.drifted_at: Lsn | None = None  # where the applier last stopped at an altered table
        self.routes: tuple[Route, ...] = ()
        self.parted: tuple[Route, ...] = ()  # of before: these are in no partitioned table any more
        self.building: asyncio.Task[Any] | None = (
            None  # beside the phases: services.coordinator.post_data.build
        )
        self._around = around
        self._changes = Changes()
        settings = Credentials(around.source_uri or "", around.destination_uri or "")
        self.credentials = KnownCredentials(migration, settings, self._changes, embedded=around.embedded)
        self._unstaffed: set[Role] = set()
        self._retries = Retries()
        self._attachments = 0
        self._restored_at = time.monotonic() if restored else None
        around.workforce.listen(migration.record.migration_id, self)

    @property
    def archive(self) -> Path:
        """Where the schema's archive is kept until the indexes are done."""
        return folder(self._around.state_dir, self.migration.record.migration_id) / ARCHIVE

    def forget_files(self) -> list[str]:
        """Remove what was written to the state directory; returns a line for each file."""
        return remove_state(self._around.state_dir, self.migration.record.migration_id)

    # Waiting.

    def notify(self) -> None:
        """Let `until` look again."""
        self._changes.announce()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; it is looked at after every report."""
        await self._changes.until(condition)

    async def until_fatal(self) -> PgmigError:
        """The error that ends the running phase."""
        await self.until(lambda: self.fatal is not None)
        assert self.fatal is not None
        return self.fatal

    # Workers.

    async def staff(self, *roles: Role) -> None:
        """Have these roles filled, and the others stopped."""
        await self.credentials.both()
        record = self.migration.record
        await self.release([role for role in ALL_ROLES if role not in roles])
        makers: dict[Role, MakeWork] = {
            Role.DECODER: self._decoder_work,
            Role.COPIER: self._copier_work,
            Role.APPLIER: self._applier_work,
        }
        for role in roles:
            self._around.workforce.want(
                record.migration_id, role, makers[role], wait_s=self._patience(role), prefix=self._prefix
            )

    @property
    def _prefix(self) -> str:
        """Of the assignments' ids: names this migration, and no other one of the same id."""
        record = self.migration.record
        return f"{record.migration_id}-{record.instance}" if record.instance else record.migration_id

    def _patience(self, role: Role) -> float:
        """After a coordinator's restart its workers get time to come back before others start. In an
        embedded stack there is one worker of a role: the one that attaches runs the work, or nobody does."""
        if self._around.embedded or self._restored_at is None or self.assignment(role) is not None:
            return 0.0
        return max(0.0, self._restored_at + self._around.workforce.grace_s - time.monotonic())

    async def release(self, roles: Collection[Role] = ALL_ROLES) -> bool:
        """Stop the roles' work; whether all of it is known to have stopped."""
        if Role.DECODER in roles:
            self.snapshot = None  # it ends with the session that exported it
        return await self._around.workforce.release(self.migration.record.migration_id, roles)

    def assignment(self, role: Role) -> AssignmentRef | None:
        return self._around.workforce.current(self.migration.record.migration_id, role)

    def _decoder_work(self) -> DecoderWork:
        record, slot = self.migration.record, self.migration.record.slot
        return DecoderWork(
            source_uri=self.credentials.known.source_uri,
            follow=record.options.follow,
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
        options = self.migration.record.options
        return CopierWork(
            self.credentials.known.source_uri,
            self.credentials.known.destination_uri,
            options.copy_workers,
            options.max_rate,
        )

    def _applier_work(self) -> ApplierWork:
        record = self.migration.record
        slot = record.slot
        return ApplierWork(
            self.credentials.known.destination_uri,
            slot.consistent_lsn if slot else Lsn(0),
            (*self.migration.copying.floors(), *((one.table, one.floor) for one in record.dropped)),
            tuple(skipped.lsn for skipped in record.skipped),
            record.options.strict_boundaries,
            (*self.routes, *self.parted),  # changes of before it was detached may still come
            record.sends_generated,
            record.applier_epoch,
        )

    async def stop_building(self) -> None:
        """End what runs beside the phases. What it has not noted as done is begun anew."""
        task, self.building = self.building, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # told already

    # The snapshot.

    async def open_snapshot(self) -> SnapshotReady:
        """The decoder's exported snapshot: the one it holds, or a new one."""
        while self.snapshot is None:
            decoder = self.assignment(Role.DECODER)
            if decoder is not None:
                command = OpenSnapshot(decoder.assignment_id)
                self._around.workforce.tell(command, decoder.assignment_id)
            # Asked again after every attachment: a command may have been lost with its stream.
            await self.until(partial(self._answered, self._attachments))
        return self.snapshot

    def _answered(self, attachments: int) -> bool:
        return self.snapshot is not None or self._attachments != attachments

    def close_snapshot(self) -> None:
        """Let the source vacuum again."""
        decoder, self.snapshot = self.assignment(Role.DECODER), None
        if decoder is not None:
            self._around.workforce.tell(CloseSnapshot(decoder.assignment_id), decoder.assignment_id)

    # Listener of the workforce.

    def accepts(self, assignment: AssignmentRef) -> bool:
        if not assignment.assignment_id.startswith(f"{self._prefix}-"):
            return False  # of an earlier migration of the same id
        return self.migration.phase.running

    def given(self, assignment: AssignmentRef) -> None:
        self._unstaffed.discard(assignment.role)
        self._attachments += 1
        self.migration.touch()
        self.notify()

    def gone(self, role: Role) -> None:
        if role is Role.DECODER:
            self.snapshot = None
        if role is Role.APPLIER:
            self.migration.following.applier_gone()
        article = "a" if role is Role.COPIER else "the"
        self.migration.event(EventLevel.WARNING, f"{article} {role} has stopped its work, or was lost")
        self.notify()

    def unstaffed(self, role: Role) -> None:
        if role not in self._unstaffed:
            self._unstaffed.add(role)
            self.migration.event(EventLevel.WARNING, f"no {role} is attached: waiting for one")

    def failed(self, role: Role, error: PgmigError) -> None:
        if not error.policy.retry and self.fatal is None:
            self.fatal = error  # the failure of the migration reports it
        else:
            self.migration.event(
                EventLevel.WARNING if error.policy.retry else EventLevel.ERROR, f"{role}: {error}"
            )
        self.notify()

    def reported(self, role: Role, report: WorkerReport) -> None:
        now = time.monotonic()
        migration = self.migration
        match report:
            case SlotReady():
                self._slot_ready(report)
            case SnapshotReady():
                self.snapshot = report
            case DecoderProgress():
                migration.following.decoder(now, report)
                migration.touch()
                if migration.following.stream_filled(now, report):
                    migration.event(EventLevel.WARNING, STREAM_FULL)
            case PartProgress() | PartDone():
                migration.copying.report(report)
                migration.touch()
            case ApplierProgress():
                migration.following.applier(report)
                migration.touch()
            case SentinelApplied():
                self.sentinels[report.token] = report
            case AssignmentRetrying():
                if line := self._retries.line(now, role, report):
                    migration.event(EventLevel.WARNING, line)
            case AssignmentFailed():
                self.part_errors.append((report.part_id, error_of(report)))
        self.notify()

    def _slot_ready(self, report: SlotReady) -> None:
        if self.migration.record.slot is not None:
            return
        slot = SlotRecord(report.consistent_lsn, report.system_identifier, report.timeline)
        self.migration.slot_ready(slot)
        if self.migration.record.options.follow:
            self.migration.event(EventLevel.INFO, f"replication slot begins at {report.consistent_lsn}")

    def cleared(self) -> None:
        """Forget what the last run of a phase ended with."""
        self.fatal = None
        self.part_errors.clear()
        self._retries.clear()

    def unexpected(self, exc: BaseException) -> PgmigError:
        """An exception that is not ours, for the operator; the log has it in full."""
        log.error("migration %s: unexpected error", self.migration.id, exc_info=exc)
        return PgmigError(
            ErrorKind.INTERNAL, f"unexpected {type(exc).__name__} in the coordinator", "see its log"
        )
