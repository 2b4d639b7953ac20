"""The old source is watched after the switchover, whichever way the phase loop comes to its end."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.operations import after_switchover
from services.coordinator.phase_loop import PhaseLoop
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.pipeline import Pipelines
from services.shared.model import Endpoint, Lsn, MigrationOptions, Phase, SwitchoverResult
from tests.support.records import make_record


class Stand:
    def __init__(self, migration: Migration) -> None:
        self.active = self
        self.context = Context(migration, migration.active, cast(Journal, None), cast(PipelineEnds, None))
        self.schema = self.workers = self.bus = None


async def test_old_source_is_watched_if_the_loop_waited_for_the_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A phase that is entered again amid the switchover waits until that is decided."""
    record = make_record(
        migration_id="m",
        revision=7,
        phase=Phase.SWITCHOVER,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.5,
        phase_since=2.5,
    )
    migration = Migration(record, lambda _: ())
    loop = PhaseLoop(cast(Pipelines, Stand(migration)))
    watched: list[Context] = []

    async def watch(context: Context) -> None:
        watched.append(context)

    async def decide() -> None:
        migration.switched_over(SwitchoverResult(Lsn(1), 1, 0, 1.0))

    monkeypatch.setattr(after_switchover, "watch", watch)
    loop.switching._task = asyncio.create_task(decide())
    await loop._driver._advance()
    assert migration.phase is Phase.SWITCHED_OVER
    await asyncio.sleep(0)
    assert watched == [loop._context]
    await loop.unwatch()
