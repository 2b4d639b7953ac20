"""Builds the pipelines of one migration from their parts. Each part has its own module."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.credentials import Credentials, KnownCredentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.files import Files
from services.coordinator.pipeline.hook_settings import HookSettings, KnownPoolers
from services.coordinator.pipeline.index_work import IndexWork
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.reports import Reports
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.pipeline.staffing import Staffing
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.bus.connection import Client
from services.shared.model import Direction
from services.shared.runtime.changes import Changes


@dataclass(frozen=True, slots=True)
class SharedResources:
    """What all migrations of one coordinator share. source_uri, destination_uri: its own
    settings, a fallback for credentials. embedded: they were given for the one migration that it has,
    so the password file does not replace them. hooks: of its settings."""

    bus: Client
    worker_registry: WorkerRegistry
    state_dir: Path
    source_uri: str | None = None
    destination_uri: str | None = None
    embedded: bool = False
    hooks: HookSettings = field(default_factory=HookSettings)


class Pipeline:
    """Of one direction. credentials: those of the migration, if another pipeline of it has them already.
    restored: the migration was found in the store, so workers may still run for it."""

    def __init__(
        self,
        migration: Migration,
        journal: Journal,
        shared: SharedResources,
        direction: Direction = Direction.FORWARD,
        credentials: KnownCredentials | None = None,
        *,
        restored: bool = False,
    ) -> None:
        worker_registry, changes, status = shared.worker_registry, Changes(), migration.pipeline(direction)
        ends = PipelineEnds(credentials or known_credentials(migration, shared), direction)
        snapshot = Snapshot(status.id, worker_registry, changes)
        routing = Routing()
        staffing = Staffing(
            status,
            worker_registry,
            ends,
            snapshot,
            routing,
            embedded=shared.embedded,
            restored=restored,
        )
        reports = Reports(status, snapshot, changes)
        self.context = Context(migration, status, journal, ends, shared.hooks, KnownPoolers(shared.hooks))
        self.schema = Schema(routing, Files(shared.state_dir, str(migration.id)), IndexWork())
        self.workers = Workers(staffing, snapshot, reports)
        self.bus = shared.bus
        worker_registry.listen(status.id, reports)


def known_credentials(migration: Migration, shared: SharedResources) -> KnownCredentials:
    settings = Credentials(shared.source_uri or "", shared.destination_uri or "")
    return KnownCredentials(migration, settings, Changes(), embedded=shared.embedded)


class Pipelines:
    """The pipelines of one migration, which share its credentials. Each is built when it is first needed.

    preparing: held while what the idle one needs is created or removed.
    """

    def __init__(
        self, migration: Migration, journal: Journal, shared: SharedResources, *, restored: bool = False
    ) -> None:
        self.migration = migration
        self.journal = journal
        self.credentials = known_credentials(migration, shared)
        self._shared = shared
        self._restored = restored
        self._built: dict[Direction, Pipeline] = {}
        self.preparing = asyncio.Lock()

    def of(self, direction: Direction) -> Pipeline:
        """Raises KeyError if the migration has no pipeline in that direction. It is built again when it works
        again: nothing of its earlier run counts."""
        built = self._built.get(direction)
        if built is None or built.context.pipeline is not self.migration.pipeline(direction):
            self._built[direction] = Pipeline(
                self.migration,
                self.journal,
                self._shared,
                direction,
                self.credentials,
                restored=self._restored,
            )
        return self._built[direction]

    @property
    def active(self) -> Pipeline:
        """The pipeline that works, or that worked last."""
        return self.of(self.migration.record.active)

    @property
    def idle(self) -> Pipeline | None:
        """The one in the other direction, while that one works."""
        idle = self.migration.record.idle
        return None if idle is None else self.of(idle.direction)

    @property
    def all(self) -> tuple[Pipeline, ...]:
        """The forward pipeline first."""
        return tuple(self.of(one.direction) for one in self.migration.record.pipelines)
