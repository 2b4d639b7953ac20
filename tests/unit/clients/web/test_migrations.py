"""A coordinator of this machine that hangs: its migration is shown as it was recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from clients.serving import Recorded
from clients.session import Session
from clients.web.migrations import Known, Migrations, Unread
from services.shared.model import ErrorKind, MigrationId, MigrationView, PgmigError, Phase

M = MigrationId.parse("m")
LATE = PgmigError(ErrorKind.TIMEOUT, "the coordinator does not answer")
VIEW = MigrationView("m", Phase.STREAMING)


class Hung(Session):
    def __init__(self, address: str) -> None:
        self.address = address

    async def get(self, migration_id: str) -> MigrationView:
        raise LATE

    async def close(self) -> None:
        pass


@dataclass
class Machine:
    """One migration, with a coordinator that runs."""

    view: Recorded | None = None
    coordinator: str = field(default="", init=False)

    def known(self) -> tuple[MigrationId, ...]:
        return (M,)

    def address(self, migration_id: MigrationId) -> str:
        return "127.0.0.1:1"

    def recorded(self, migration_id: MigrationId) -> Recorded | None:
        return self.view

    def not_running(self, migration_id: MigrationId, doing: str) -> PgmigError:
        return PgmigError(ErrorKind.NOT_FOUND, "nothing is recorded")

    def logs(self, migration_id: MigrationId) -> dict[str, Path]:
        return {}

    async def certificate(self, migration_id: MigrationId, operation_id: str) -> dict[str, object]:
        return {}

    async def keep_certificates(self, migration_id: MigrationId, *, force: bool) -> None:
        pass


async def test_a_coordinator_that_hangs_leaves_what_is_recorded() -> None:
    migrations = Migrations(Machine(Recorded(VIEW, 5.0)), Hung)
    assert await migrations.get(M) == Known(VIEW, 5.0, LATE)
    assert await migrations.list_all() == (Known(VIEW, 5.0, LATE),)


async def test_a_migration_that_cannot_be_read_is_listed_with_the_reason() -> None:
    assert await Migrations(Machine(), Hung).list_all() == (Unread(M, LATE),)


@pytest.mark.parametrize("kind", [ErrorKind.NOT_FOUND, ErrorKind.INTERNAL])
async def test_other_errors_are_not_hidden_by_what_is_recorded(kind: ErrorKind) -> None:
    class Refusing(Hung):
        async def get(self, migration_id: str) -> MigrationView:
            raise PgmigError(kind, "no")

    with pytest.raises(PgmigError) as caught:
        await Migrations(Machine(Recorded(VIEW, 5.0)), cast("Any", Refusing)).get(M)
    assert caught.value.kind is kind
