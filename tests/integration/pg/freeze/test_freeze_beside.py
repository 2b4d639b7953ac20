"""A second freeze is opened beside a frozen source, as a dry run or a replaced coordinator does."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg
import pytest

from services.shared.model import PgmigError
from services.shared.pg.freeze import source as freeze_module
from services.shared.pg.freeze.closed_database import beside
from services.shared.pg.freeze.source import Freeze
from tests.support.servers.door import close, reopen
from tests.support.switchover.freezing import Opened, frozen, refused, setting, shut


class Delayed:
    """Delays the session on the other database until `go_on` is set."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def beside(self, uri: str, door: str, side: str) -> psycopg.AsyncConnection:
        self.begun.set()
        await self.go_on.wait()
        return await beside(uri, door, side)


@pytest.mark.parametrize("closed", [True, False])
async def test_freeze_that_is_opened_beside_another_one_changes_nothing(
    source: str, opened: Opened, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """It read the source before the freeze, and proves its rights after that."""
    freeze, delayed = await opened(source), Delayed()
    monkeypatch.setattr(freeze_module, "beside", delayed.beside)
    second = asyncio.create_task(Freeze.open(source))
    await delayed.begun.wait()
    if closed:
        await frozen(freeze)
        await shut(freeze)
    else:
        await freeze.forbid_writes()
    delayed.go_on.set()
    with suppress(PgmigError):  # the freeze has ended one of its sessions
        await (await second).close()
    assert refused(source) == closed
    assert not closed or not await freeze.opened()
    await freeze.close()
    assert setting(reopen(source)) == [(["default_transaction_read_only=on"],)]


async def test_database_that_was_opened_between_two_checks_counts_as_opened(
    source: str, opened: Opened
) -> None:
    """Sessions are ended once more before the decision, and that hides nothing."""
    freeze = await opened(source)
    await frozen(freeze)
    await shut(freeze)
    assert not await freeze.opened()
    reopen(source)
    close(source)
    await shut(freeze)
    assert await freeze.opened()
