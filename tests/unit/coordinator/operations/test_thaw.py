"""The source is opened at the primary that is known before any other server of a list is asked."""

from __future__ import annotations

from typing import cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.operations import undo
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context
from services.shared.model import Endpoint, ErrorKind, MigrationOptions, PgmigError, Phase
from tests.support.records import make_record


class Ends:
    """known, primary: connection strings. told: what happened, in order."""

    def __init__(self, known: str, primary: str, told: list[str]) -> None:
        self._known, self._primary, self._told = known, primary, told

    async def source(self, *, again: bool = True) -> str:
        self._told += ["looked for"] if again else []
        return self._primary if again else self._known


async def thaw(monkeypatch: pytest.MonkeyPatch, known: str, primary: str, down: str = "") -> list[str]:
    told: list[str] = []

    async def opened(_context: Context, uri: str) -> bool:
        if uri == down:
            raise PgmigError(ErrorKind.UNREACHABLE, "it is down")
        told.append(f"opened {uri}")
        return True

    async def enabled(_context: Context, uri: str) -> None:
        told.append(f"enabled {uri}")

    monkeypatch.setattr(undo, "_open_recorded", opened)
    monkeypatch.setattr(undo, "_enable_recorded", enabled)
    record = make_record(
        migration_id="m",
        revision=1,
        phase=Phase.SWITCHOVER,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.0,
        phase_since=1.0,
    )
    migration = Migration(record, lambda _: ())
    ends = cast(PipelineEnds, Ends(known, primary, told))
    context = Context(migration, migration.active, cast(Journal, None), ends)
    assert await undo._Thaw(context).attempt() is None
    return told


async def test_known_primary_is_opened_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await thaw(monkeypatch, "a", "a") == ["opened a", "looked for", "enabled a"]


async def test_server_that_was_promoted_meanwhile_is_opened_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await thaw(monkeypatch, "a", "b") == ["opened a", "looked for", "opened b", "enabled b"]


async def test_known_primary_may_be_down(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await thaw(monkeypatch, "a", "b", down="a") == ["looked for", "opened b", "enabled b"]
