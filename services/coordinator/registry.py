"""All migrations of one coordinator: it loads them at its start, creates them and removes them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from services.coordinator.commands import Commands, unknown_operation
from services.coordinator.migration.certificates import issued
from services.coordinator.migration.journal import Journal
from services.coordinator.migration.record import (
    PipelineRecord,
    Record,
    marked,
    pack,
    same_migration,
    supersedes,
    unpack,
)
from services.coordinator.migration.state import REVISIONS_UNSAVED, Migration
from services.coordinator.migration.state_file import read_states, remove_state, state_file
from services.coordinator.phase_loop import PhaseLoop
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.pipeline import Pipelines, SharedResources
from services.shared.bus.store import StateStore
from services.shared.model import (
    Direction,
    ErrorKind,
    EventLevel,
    MigrationId,
    MigrationOptions,
    MigrationPhase,
    MigrationPlan,
    PgmigError,
    PipelineState,
)
from services.shared.pg.preflight.checks import Preflight, check_migration
from services.shared.pg.reverse.ahead import check_ahead
from services.shared.pg.schema.existing_objects import check_confirmed

log = logging.getLogger(__name__)


def newest(records: Iterable[Record]) -> dict[str, Record]:
    """For each id, the record that supersedes the others. Of equal records, the first."""
    found: dict[str, Record] = {}
    for record in records:
        known = found.get(record.migration_id)
        if known is None or supersedes(record, known):
            found[record.migration_id] = record
    return found


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _tell_stale(found: Record, chosen: Record, place: str) -> None:
    """For the log: a record of an earlier migration is about to be replaced."""
    if not same_migration(found, chosen):
        log.warning(
            "%s belongs to an earlier migration %s, created at %s: it is ignored, since the newer one was "
            "created at %s",
            place,
            found.migration_id,
            _utc(found.created_at),
            _utc(chosen.created_at),
        )


async def _checked(
    migration_id: MigrationId, credentials: Credentials, options: MigrationOptions
) -> Preflight:
    uris = credentials.source_uri, credentials.destination_uri
    checked = await check_migration(
        migration_id, *uris, follow=options.follow, no_key_tables=options.no_key_tables, options=options
    )
    if not options.bidirectional:
        return checked
    warnings = await check_ahead(*uris, migration_id, checked.options)
    return replace(checked, warnings=(*checked.warnings, *warnings))


class Coordinator:
    def __init__(self, store: StateStore, shared: SharedResources) -> None:
        self._store = store
        self._shared = shared
        self._migrations: dict[str, Commands] = {}
        self._starting: set[str] = set()

    async def load(self) -> None:
        """Continue every migration that the store or a state file knows. Raises BROKER."""
        stored = list(self._stored(await self._store.load()))
        filed = list(self._not_removed(await self._store.removed()))
        chosen = newest([*stored, *filed])
        for record in stored:
            _tell_stale(record, chosen[record.migration_id], f"{record.migration_id} in the store")
        for record in filed:
            place = str(state_file(self._shared.state_dir, record.migration_id))
            _tell_stale(record, chosen[record.migration_id], place)
        taken = [later for record in chosen.values() if (later := await self._taken_over(record))]
        for record in taken:
            self._continue(record)

    def _stored(self, values: dict[str, bytes]) -> Iterator[Record]:
        for key, value in values.items():
            try:
                yield unpack(value)
            except PgmigError as exc:
                log.error("state of migration %s in the store: %s", key, exc)

    def _not_removed(self, removed: dict[str, bytes]) -> Iterator[Record]:
        """Records of the state files, without those of migrations that were cleaned up.

        A coordinator that was replaced before the cleanup does not learn of it, and keeps its file.
        """
        for record in read_states(self._shared.state_dir):
            mark = removed.get(record.migration_id)
            if mark is not None and marked(record, mark):
                log.warning(
                    "migration %s was cleaned up by another coordinator: its state file is removed",
                    record.migration_id,
                )
                remove_state(self._shared.state_dir, record.migration_id)
            else:
                yield record

    async def _taken_over(self, record: Record) -> Record | None:
        """Store the record with this coordinator's term and return it. This is done before anything else, so
        that no state file has a term that the store does not know. None: another coordinator took the
        migration over at the same time."""
        later = issued(record)  # a coordinator that ended after the decision may not have done that
        later = replace(later, term=record.term + 1, revision=record.revision + REVISIONS_UNSAVED)
        try:
            await self._store.save(record.migration_id, pack(later))
        except PgmigError as exc:
            if exc.kind is not ErrorKind.FENCED:
                raise
            log.error("migration %s is left to another coordinator: %s", record.migration_id, exc)
            return None
        return later

    def _continue(self, record: Record) -> None:
        phase = f"in phase {record.shown_phase}"
        log.info("migration %s was %s", record.migration_id, phase)
        commands = self._make(record, Credentials(), restored=True)
        commands.migration.loaded_at = time.time()
        commands.migration.event(EventLevel.INFO, f"the coordinator was started again {phase}")
        commands.migration.announce_certificate()
        for pipeline in () if record.phase.blocks else record.working:
            if pipeline.state is PipelineState.STREAMING:  # until the applier says so again
                commands.migration.pipeline(pipeline.direction).entered(PipelineState.CATCHUP)
        commands.loop.start()

    def _make(self, record: Record, credentials: Credentials, *, restored: bool) -> Commands:
        key = record.migration_id
        migration = Migration(record, self._shared.worker_registry.view)
        journal = Journal(self._store, self._shared.state_dir, migration)
        migration.on_change = journal.progress
        pipelines = Pipelines(migration, journal, self._shared, restored=restored)
        pipelines.credentials.accept(credentials, proven=True)
        commands = self._migrations[key] = Commands(PhaseLoop(pipelines))
        return commands

    async def plan(
        self, migration_id: MigrationId, credentials: Credentials, options: MigrationOptions
    ) -> MigrationPlan:
        """What `start` would take from the destination; raises as it does for the checks."""
        return (await _checked(migration_id, credentials, options)).plan

    async def start(
        self, migration_id: MigrationId, credentials: Credentials, options: MigrationOptions
    ) -> Commands:
        """Check both databases, then begin. Raises PgmigError with nothing left behind."""
        key = str(migration_id)
        if key in self._migrations or key in self._starting:
            raise PgmigError(
                ErrorKind.ALREADY_EXISTS,
                f"migration {key} exists already",
                "see 'pgmig-cli list'; resume it, clean it up, or choose another id",
            )
        self._starting.add(key)
        try:
            return await self._start(key, migration_id, credentials, options)
        finally:
            self._starting.discard(key)

    async def _start(
        self, key: str, migration_id: MigrationId, credentials: Credentials, options: MigrationOptions
    ) -> Commands:
        checked = await _checked(migration_id, credentials, options)
        check_confirmed(checked.plan, options.confirmed)
        now = time.time()
        record = Record(
            migration_id=key,
            revision=1,
            phase=MigrationPhase.MIGRATING,
            options=checked.options,
            source=checked.source,
            destination=checked.destination,
            created_at=now,
            phase_since=now,
            pipelines=(PipelineRecord(Direction.FORWARD, PipelineState.CREATED, now),),
            instance=secrets.token_hex(8),
            source_identity=checked.source_identity,
            destination_identity=checked.destination_identity,
        )
        commands = self._make(record, credentials, restored=False)
        commands.migration.event(EventLevel.INFO, "both databases are checked")
        for warning in checked.warnings:
            commands.migration.event(EventLevel.WARNING, warning)
        try:
            await commands.loop.pipelines.journal.save(strict=True)
        except BaseException:
            await self._discard(commands)
            raise
        commands.loop.start()
        return commands

    async def _discard(self, commands: Commands) -> None:
        """Forget a migration that never began."""
        self.forget(commands)
        await commands.loop.pipelines.journal.close()
        commands.loop.pipelines.active.schema.files.remove()

    def commands(self, migration_id: MigrationId) -> Commands:
        """Raises NOT_FOUND, also for a migration that is being removed."""
        commands = self._migrations.get(str(migration_id))
        if commands is None or commands.migration.removed:
            raise PgmigError(
                ErrorKind.NOT_FOUND,
                f"there is no migration {migration_id}",
                "see 'pgmig-cli list' for those there are",
            )
        return commands

    def of_operation(self, operation_id: str) -> Commands:
        """Those of the migration that has this operation. Raises NOT_FOUND."""
        for commands in self._migrations.values():
            if commands.migration.operations.found(operation_id) is not None:
                return commands
        raise unknown_operation(operation_id)

    def migrations(self) -> list[Migration]:
        """The oldest first."""
        known = (commands.migration for commands in self._migrations.values())
        found = (migration for migration in known if not migration.removed)
        return sorted(found, key=lambda migration: migration.record.created_at)

    def forget(self, commands: Commands) -> None:
        key = commands.migration.record.migration_id
        if self._migrations.get(key) is commands:
            del self._migrations[key]
            for pipeline in commands.migration.record.pipeline_ids:
                self._shared.worker_registry.forget(pipeline)

    async def stop(self) -> None:
        """Leave every migration so that another coordinator can resume it. Workers continue."""
        await asyncio.gather(*(commands.loop.stop() for commands in list(self._migrations.values())))
