"""An undo whose subscriptions cannot be enabled yet: what its further attempts do."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.operations import undo as undo_module
from services.coordinator.operations.undo import undo
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.parts import Context
from services.shared.model import Endpoint, ErrorKind, MigrationOptions, Phase
from services.shared.pg.freeze.thaw import Before, StillDisabledError
from tests.support.records import make_record

KEPT = "the default was changed during the freeze"


class Stand:
    """A journal and credentials."""

    async def save(self) -> None:
        pass

    async def source(self, *, again: bool = True) -> str:
        return "postgresql://h/d"


def frozen() -> Migration:
    record = make_record(
        migration_id="m",
        revision=7,
        phase=Phase.SWITCHOVER,
        options=MigrationOptions(follow=True),
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.5,
        phase_since=2.5,
        freeze=Before("", 1.0, "d", "postgres", ("sub",)),
    )
    return Migration(replace(record), lambda _: ())


async def test_writers_are_let_in_once_however_often_subscriptions_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later attempt would undo what an operator has set since, and end the sessions of the application."""
    migration, calls, failures = frozen(), list[str](), [1, 2]

    async def let_in(*_: object) -> tuple[str, ...]:
        calls.append("open")
        return (KEPT,)

    async def enable(*_: object) -> None:
        calls.append("enable")
        if failures:
            failures.pop()
            raise StillDisabledError(ErrorKind.PERMISSION, "sub is not enabled")

    monkeypatch.setattr(undo_module, "let_writers_in", let_in)
    monkeypatch.setattr(undo_module, "enable_again", enable)
    stand = Stand()
    await undo(Context(migration, migration.active, cast(Journal, stand), cast(PipelineEnds, stand)))
    assert calls == ["open", "enable", "enable", "enable"]
    assert migration.phase is not Phase.SWITCHOVER
    assert len([event for event in migration.record.events if KEPT in event.text]) == 1
