"""Builds one migration's pipeline from its parts. Each part has its own module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.credentials import Credentials, KnownCredentials
from services.coordinator.pipeline.files import Files
from services.coordinator.pipeline.index_work import IndexWork
from services.coordinator.pipeline.parts import Context, Schema, Workers
from services.coordinator.pipeline.reports import Reports
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.pipeline.staffing import Staffing
from services.coordinator.workers.registry import WorkerRegistry
from services.shared.bus.connection import Client
from services.shared.runtime.changes import Changes


@dataclass(frozen=True, slots=True)
class SharedResources:
    """What all migrations of one coordinator share. source_uri, destination_uri: its own
    settings, a fallback for credentials. embedded: they were given for the one migration that it has,
    so the password file does not replace them."""

    bus: Client
    worker_registry: WorkerRegistry
    state_dir: Path
    source_uri: str | None = None
    destination_uri: str | None = None
    embedded: bool = False


class Pipeline:
    """restored: the migration was found in the store, so workers may still run for it."""

    def __init__(
        self, migration: Migration, journal: Journal, shared: SharedResources, *, restored: bool = False
    ) -> None:
        worker_registry, changes = shared.worker_registry, Changes()
        settings = Credentials(shared.source_uri or "", shared.destination_uri or "")
        credentials = KnownCredentials(migration, settings, changes, embedded=shared.embedded)
        snapshot = Snapshot(migration.pipeline_id, worker_registry, changes)
        routing = Routing()
        staffing = Staffing(
            migration,
            worker_registry,
            credentials,
            snapshot,
            routing,
            embedded=shared.embedded,
            restored=restored,
        )
        reports = Reports(migration, snapshot, changes)
        self.context = Context(migration, journal, credentials)
        self.schema = Schema(routing, Files(shared.state_dir, str(migration.id)), IndexWork())
        self.workers = Workers(staffing, snapshot, reports)
        self.bus = shared.bus
        worker_registry.listen(migration.pipeline_id, reports)
