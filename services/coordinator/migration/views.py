"""What clients see of a migration: its view at one moment, and the views of a watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

from services.coordinator.migration.pace import pause
from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.migration.readiness import with_copy, with_stream
from services.coordinator.migration.state import Migration
from services.shared.model import MigrationView, Phase, PipelineView, Rates, Readiness, shown_phase
from services.shared.model.readiness import assess
from services.shared.model.readiness_facts import DEFAULT_LIMITS, Limits, ReadinessFacts

WATCH_EVERY_S = 0.25
LONGEST_PAUSE_S = 5.0
"""Limit of the pause between two views, even for large views and slow clients."""


async def watch(migration: Migration) -> AsyncIterator[MigrationView]:
    """Yield the view at once, and again after changes: at most four times a second, and less often with
    many tables. When the migration ends or stops, yield at once. Ends when the migration is removed."""
    while not migration.removed:
        revision, phase, began = migration.record.revision, migration.phase, time.monotonic()
        yield view_of(migration)
        took = time.monotonic() - began  # also its way to the client
        await _rest(migration, min(LONGEST_PAUSE_S, pause(WATCH_EVERY_S, took)), phase)
        while migration.record.revision == revision and not migration.removed:
            await migration.changed()


async def _rest(migration: Migration, seconds: float, phase: Phase) -> None:
    """Wait, but not after the migration has stopped running."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (migration.phase is phase or migration.phase.running) and not migration.removed:
                await migration.changed()


def view_of(migration: Migration) -> MigrationView:
    record, active = migration.record, migration.active
    pipeline, resume = record.shown, record.shown.resume_state
    return MigrationView(
        migration_id=record.migration_id,
        phase=migration.phase,
        revision=record.revision,
        resume_phase=shown_phase(record.phase, resume) if resume else None,
        failure=migration.failure,
        source=record.source,
        destination=record.destination,
        options=record.options,
        created_at=record.created_at,
        phase_since=max(record.phase_since, pipeline.state_since),
        positions=active.following.positions(time.monotonic()),
        rates=_rates(active),
        tables=active.copying.tables(),
        events=record.events,
        workers=migration.workers(),
        switchover=record.switchover,
        indexes=active.indexes,
        needs_credentials=migration.needs_credentials,
        skipped=tuple(one for pipeline in record.working for one in pipeline.skipped),
        pipelines=tuple(map(_pipeline_view, migration.pipelines)),
        readiness=readiness_of(migration) if _ahead(migration) else None,
        operation=record.operations[-1] if record.operations else None,
        left=record.left,
    )


def _ahead(migration: Migration) -> bool:
    """Whether the migration ends with a switchover, and has not."""
    options = migration.record.options
    return options.follow and not (options.bidirectional or migration.phase.ended)


def _rates(pipeline: PipelineStatus) -> Rates:
    works = pipeline.works and pipeline.state.running
    rows, size, transactions = pipeline.rates.per_second() if works else (0.0, 0.0, 0.0)
    applied = pipeline.following.totals()
    return Rates(rows, size, transactions, applied.rows, applied.transactions, applied.conflicts)


def _pipeline_view(pipeline: PipelineStatus) -> PipelineView:
    record = pipeline.record
    return PipelineView(
        record.direction,
        record.state,
        record.state_since,
        record.resume_state,
        record.failure,
        pipeline.following.positions(time.monotonic()),
        _rates(pipeline),
    )


def readiness_of(migration: Migration, limits: Limits = DEFAULT_LIMITS) -> Readiness:
    """Whether it can be switched over, by what is known now."""
    follow, failure, pipeline = migration.record.options.follow, migration.failure, migration.active
    facts = ReadinessFacts(str(migration.id), migration.phase, follow, failure, migration.needs_credentials)
    facts = replace(facts, others_may_write=migration.record.options.no_guard_destination)
    facts = with_copy(facts, pipeline.copying, pipeline.indexes)
    return assess(with_stream(facts, pipeline.following, pipeline.servers, time.monotonic()), limits)
