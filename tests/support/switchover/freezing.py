"""The steps of a freeze, which a test runs one by one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import psycopg

from services.shared.model import TableId
from services.shared.pg.freeze.source import Freeze
from tests.support.servers.door import reopen

Opened = Callable[[str], Awaitable[Freeze]]
CLOSED = "not currently accepting connections"


def administrator(uri: str) -> psycopg.Connection:
    """A session that may write, whatever settings the freeze has changed."""
    return psycopg.connect(reopen(uri), autocommit=True, options="-c default_transaction_read_only=off")


async def tables() -> list[TableId]:
    return [TableId("public", "a"), TableId("public", "b")]


async def frozen(freeze: Freeze) -> None:
    await freeze.lock(tables, time.monotonic() + 30)
    await freeze.end_writers(await freeze.forbid_writes())


async def shut(freeze: Freeze) -> int:
    return await freeze.shut(time.monotonic() + 30)


def refused(uri: str) -> bool:
    """Whether nobody can begin a session."""
    try:
        psycopg.connect(uri, connect_timeout=10).close()
    except psycopg.OperationalError as exc:
        return CLOSED in str(exc)
    return False


def setting(uri: str) -> list[tuple[object, ...]]:
    with psycopg.connect(uri) as conn:
        return conn.execute("SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0").fetchall()
