"""Commands exclude a switchover from the moment it is asked for, which is before its phase begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import cast

import pytest

from services.coordinator.commands import Commands
from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.operations import undo as undo_module
from services.coordinator.operations.dry_run import DryRun
from services.coordinator.operations.undo import undo_at_last
from services.coordinator.phase_loop import PhaseLoop
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context, Schema
from services.coordinator.pipeline.pipeline import Pipelines
from services.shared.model import (
    Direction,
    Endpoint,
    ErrorKind,
    EventLevel,
    MigrationOptions,
    PgmigError,
    Phase,
    SwitchoverOptions,
    TableId,
)
from services.shared.pg.freeze.source import Freeze
from tests.support.records import make_record


def migration(phase: Phase) -> Migration:
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
    return Migration(record, lambda _: ())


def context(phase: Phase) -> Context:
    """A refused command, and an undoing that fails, need the migration alone."""
    of = migration(phase)
    return Context(of, of.active, cast(Journal, None), cast(PipelineEnds, None))


class Stand:
    """The parts of a pipeline that a refused command needs."""

    def __init__(self, phase: Phase) -> None:
        self.context = context(phase)
        self.schema = self.workers = self.bus = self.credentials = None
        self.active = self

    def of(self, _direction: Direction) -> Stand:
        return self

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the command was not refused, it goes on to the pipeline's {name}")


class Confirming:
    """A journal that notes that it was asked."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    async def confirm(self) -> None:
        self._told.append("confirmed")


class Opened:
    """A freeze without sessions."""

    async def close(self) -> None:
        pass


@pytest.fixture
async def commands() -> AsyncIterator[Commands]:
    """Its switchover waits for the lag, say: the phase is still streaming."""
    loop = PhaseLoop(cast(Pipelines, Stand(Phase.STREAMING)))
    task = asyncio.create_task(asyncio.Event().wait(), name="switchover")
    loop.switching._task = task  # type: ignore[assignment]
    yield Commands(loop)
    task.cancel()


COMMANDS: dict[str, Callable[[Commands], Awaitable[object]]] = {
    "pause": lambda commands: commands.pause(),
    "resync-table": lambda commands: commands.resync([TableId("s", "t")]),
    "abort": lambda commands: commands.abort(Credentials()),
    "cleanup": lambda commands: commands.cleanup(Credentials(), force=False),
    "cleanup --force": lambda commands: commands.cleanup(Credentials(), force=True),
    "unfreeze": lambda commands: commands.unfreeze(read_only=False),
}


@pytest.mark.parametrize("command", COMMANDS)
async def test_command_is_refused_before_the_phase_of_the_switchover_begins(
    commands: Commands, command: str
) -> None:
    before = commands.migration.record
    with pytest.raises(PgmigError) as caught:
        await COMMANDS[command](commands)
    assert caught.value.kind is ErrorKind.WRONG_PHASE
    assert commands.migration.record == before
    assert commands.loop.switching._task is not None
    assert not commands.loop.switching._task.cancelled()


async def test_dry_run_proves_the_rights_only_while_no_switchover_can_begin(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switchover that has begun since the dry run did is in the way. The check is made under the lock."""
    told: list[str] = []
    context = replace(commands._context, journal=cast(Journal, Confirming(told)))
    monkeypatch.setattr(Commands, "_context", context)

    async def opened(_uri: str, _slot: str, _side: str) -> Opened:
        told.append("opened under the lock" if commands._command.locked() else "opened")
        return Opened()

    monkeypatch.setattr(Freeze, "open", opened)
    schema, watch = cast(Schema, None), commands.loop.readiness_watch
    dry_run = DryRun(commands._context, schema, watch, SwitchoverOptions(), commands._without_switchover)
    with pytest.raises(PgmigError) as caught:
        await dry_run._prove_rights()
    assert caught.value.kind is ErrorKind.WRONG_PHASE
    assert not told
    commands.loop.switching._task = None
    await dry_run._prove_rights()
    assert told == ["confirmed", "opened under the lock"]


async def test_undo_is_retried_whatever_fails_until_the_source_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = context(Phase.SWITCHOVER)
    failures: list[Exception] = [
        PgmigError(ErrorKind.AUTHENTICATION, "the password was changed"),
        PgmigError(ErrorKind.UNREACHABLE, "the source is restarted"),
        KeyError("a mistake of ours"),
    ]

    async def undo(context: Context) -> None:
        if failures:
            raise failures.pop(0)
        context.migration.switchover_undone()

    monkeypatch.setattr(undo_module, "undo", undo)
    monkeypatch.setattr(undo_module, "FIRST_UNDO_S", 0.001)
    await undo_at_last(given)
    assert given.migration.phase is Phase.STREAMING
    told = [event.text for event in given.migration.record.events if event.level == EventLevel.ERROR]
    assert [text for text in told if "not open to writers yet" in text] == told
    assert len(told) == 3


async def test_undoing_ends_when_another_coordinator_has_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def undo(_context: Context) -> None:
        raise PgmigError(ErrorKind.FENCED, "written by another coordinator")

    monkeypatch.setattr(undo_module, "undo", undo)
    with pytest.raises(PgmigError) as caught:
        await undo_at_last(context(Phase.SWITCHOVER))
    assert caught.value.kind is ErrorKind.FENCED
