"""The objects that phases, operations and table checks work with, in three groups.

A function takes the groups that it needs. If it needs only one member of a group, it takes that member.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.files import Files
from services.coordinator.pipeline.hook_settings import HookSettings, KnownPoolers
from services.coordinator.pipeline.index_work import IndexWork
from services.coordinator.pipeline.reports import Reports
from services.coordinator.pipeline.routing import Routing
from services.coordinator.pipeline.snapshot import Snapshot
from services.coordinator.pipeline.staffing import Staffing


@dataclass(frozen=True, slots=True)
class Context:
    """A pipeline, its migration, the journal that saves both, and the connection strings of the pipeline's
    two ends and of poolers. hooks: of the coordinator's settings."""

    migration: Migration
    pipeline: PipelineStatus
    journal: Journal
    credentials: PipelineEnds
    hooks: HookSettings = field(default_factory=HookSettings)
    poolers: KnownPoolers = field(default_factory=lambda: KnownPoolers(HookSettings()))


@dataclass(frozen=True, slots=True)
class Schema:
    """What is known of the schema in addition to the record. routing: partitions whose rows are written to
    another table. files: the archive of pg_dump. index_work: the task that builds indexes and constraints."""

    routing: Routing
    files: Files
    index_work: IndexWork


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that run, the snapshot that the decoder holds, and the reports of all workers."""

    staffing: Staffing
    snapshot: Snapshot
    reports: Reports
