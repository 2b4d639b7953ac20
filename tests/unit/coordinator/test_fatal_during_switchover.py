"""An error that ends the phase while a switchover prepares, or blocks writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import cast

import pytest

from services.coordinator import driver
from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.phase_loop import PhaseLoop
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.pipeline import Pipeline, Pipelines
from services.shared.model import (
    Endpoint,
    ErrorKind,
    Lsn,
    MigrationOptions,
    PgmigError,
    Phase,
    PipelineState,
    SwitchoverResult,
)
from tests.support.records import make_record

CAUSE = PgmigError(ErrorKind.PERMISSION, "the applier may not write to table t")


class Failed:
    """Workers, one of which has reported its last error."""

    def __init__(self) -> None:
        self.reports = self

    async def until_fatal(self) -> PgmigError:
        return CAUSE


class Stand:
    def __init__(self, migration: Migration) -> None:
        self.active = self
        self.context = Context(migration, migration.active, cast(Journal, None), cast(PipelineEnds, None))
        self.schema = self.bus = None
        self.workers = Failed()


async def _for_ever(_pipeline: Pipeline) -> PipelineState:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture(autouse=True)
def _endless_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(driver._RUN, PipelineState.STREAMING, _for_ever)


def loop_of(phase: Phase, switchover: Awaitable[None]) -> PhaseLoop:
    record = make_record(
        migration_id="m",
        revision=7,
        phase=phase,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.5,
        phase_since=2.5,
    )
    loop = PhaseLoop(cast(Pipelines, Stand(Migration(record, lambda _: ()))))
    loop.switching._task = asyncio.ensure_future(switchover)
    return loop


async def test_error_ends_the_phase_although_a_switchover_prepares() -> None:
    async def prepare() -> None:
        await asyncio.Event().wait()

    loop = loop_of(Phase.STREAMING, prepare())
    async with asyncio.timeout(5):
        with pytest.raises(PgmigError) as caught:
            await loop._driver._run_state(loop.pipelines.active)
    assert caught.value is CAUSE
    assert loop.switching._task is not None
    loop.switching._task.cancel()


async def test_error_waits_for_the_end_of_a_switchover_that_blocks_writes() -> None:
    async def decide() -> None:
        await asyncio.sleep(0.01)
        loop.migration.switched_over(SwitchoverResult(Lsn(1), 1, 0, 1.0))

    loop = loop_of(Phase.SWITCHOVER, decide())
    assert await loop._driver._run_state(loop.pipelines.active) is loop.migration.active.state
    assert loop.migration.phase is Phase.SWITCHED_OVER


async def test_switchover_that_begins_meanwhile_is_waited_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error was taken before the switchover blocked writes, and would fail the migration after that."""

    async def decide() -> None:
        await asyncio.sleep(0.01)
        loop.migration.switched_over(SwitchoverResult(Lsn(1), 1, 0, 1.0))

    async def advance() -> None:
        raise CAUSE

    loop = loop_of(Phase.SWITCHOVER, decide())
    monkeypatch.setattr(loop._driver, "_advance", advance)
    monkeypatch.setattr(loop, "watch_old_source", lambda: None)
    await loop._driver._through_states()
    assert loop.migration.phase is Phase.SWITCHED_OVER
    assert loop.migration.active.record.failure is None
