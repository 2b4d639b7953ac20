"""Where the pipeline of the opposite direction starts, without servers."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.coordinator.migration.outcome import Turn
from services.coordinator.migration.record import SlotRecord
from services.coordinator.migration.state import Migration
from services.coordinator.operations import turning
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.parts import Context
from services.coordinator.pipeline.pipeline import Pipelines
from services.shared.model import Direction, ErrorKind, Lsn, PgmigError
from services.shared.pg.replication.connection import SystemIdentity
from tests.unit.coordinator.migration.test_outcome import switching

URIS = Credentials("source", "destination")


def start(
    monkeypatch: pytest.MonkeyPatch, identity: SystemIdentity, position: Lsn = Lsn(9)
) -> Awaitable[Turn]:
    record = switching()
    idle = replace(record.pipeline(Direction.REVERSE), slot=SlotRecord(Lsn(5), "system", 3))
    migration = Migration(record.with_pipeline(idle), lambda _: ())

    class Session:
        async def close(self) -> None:
            pass

    async def opened(uri: str, **_: object) -> Session:
        assert uri == "destination"
        return Session()

    async def read(_: object) -> Lsn:
        return position

    async def identify(uri: str, _: object) -> SystemIdentity:
        assert uri == "destination"
        return identity

    monkeypatch.setattr(turning, "writable_connection", opened)
    monkeypatch.setattr(turning, "current_position", read)
    monkeypatch.setattr(turning, "identify", identify)
    context: Any = SimpleNamespace(pipeline=migration.active, migration=migration)
    other = SimpleNamespace(context=SimpleNamespace(pipeline=migration.pipeline(Direction.REVERSE)))
    pipelines: Any = SimpleNamespace(of=lambda _: other)
    return turning.start_of(cast(Context, context), cast(Pipelines, pipelines), URIS, None)


async def test_it_starts_at_the_position_of_the_server_that_was_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turn = await start(monkeypatch, SystemIdentity("system", 3, Lsn(9)))
    assert turn.start == SlotRecord(Lsn(9), "system", 3)


@pytest.mark.parametrize("identity", [("system", 4), ("other", 3)])
async def test_another_server_or_timeline_is_refused(
    identity: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PgmigError) as caught:
        await start(monkeypatch, SystemIdentity(*identity, Lsn(9)))
    assert caught.value.kind is ErrorKind.SWITCHOVER_FAILED
    assert f"system {identity[0]} on timeline {identity[1]}" in caught.value.message


async def test_a_position_before_the_slot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PgmigError, match="before its replication slot"):
        await start(monkeypatch, SystemIdentity("system", 3, Lsn(9)), Lsn(4))
