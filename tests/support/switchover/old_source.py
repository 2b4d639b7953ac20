"""A source after a switchover, or after one that was interrupted."""

from __future__ import annotations

import asyncio
import urllib.parse
from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.coordinator.migration.record import Record
from services.shared.model import Endpoint, MigrationOptions, PgmigError, Phase, StepName, StepState
from services.shared.pg.freeze.source import Freeze
from tests.support.records import make_record
from tests.support.services.services import Services, until_phase

FOLLOW = MigrationOptions(follow=True)
CLOSED = "not currently accepting connections"


def closed(uri: str) -> bool:
    try:
        psycopg.connect(uri).close()
    except psycopg.OperationalError as exc:
        return CLOSED in str(exc)
    return False


def insert(uri: str, number: int, options: str = "") -> None:
    with psycopg.connect(uri, options=options) as conn:
        conn.execute("INSERT INTO item VALUES (%s)", [number])


async def switched_over(session: Session, source: str, dest: str) -> None:
    await session.start("m", source, dest, FOLLOW)
    await until_phase(session, "m", Phase.STREAMING)
    async for _ in session.switchover("m", 20.0):
        pass
    await until_phase(session, "m", Phase.SWITCHED_OVER)


async def frozen_in_vain(source: str) -> Record:
    """The record of a switchover whose coordinator died before it decided."""
    freeze = await Freeze.open(source)
    await freeze.forbid_writes()
    await freeze.shut(asyncio.get_running_loop().time() + 10)
    await freeze.close()
    return make_record(
        migration_id="m",
        revision=5,
        phase=Phase.SWITCHOVER,
        options=FOLLOW,
        source=Endpoint("a", 1, "b", "c"),
        destination=Endpoint("d", 2, "e", "f"),
        created_at=1.0,
        phase_since=1.0,
        freeze=freeze.before,
    )


def password_file(path: Path, *uris: str) -> str:
    """A password file of libpq for the databases of `uris`."""
    parts = [urllib.parse.urlsplit(uri) for uri in uris]
    path.write_text("".join(f"{p.hostname}:{p.port}:*:{p.username}:{p.password}\n" for p in parts))
    path.chmod(0o600)
    return str(path)


def place(uri: str) -> str:
    """HOST:PORT."""
    return uri.rpartition("@")[2].partition("/")[0]


async def killed_in_the_freeze(services: Services, session: Session) -> None:
    """Kill the coordinator in step freeze. Call this while a lock of the test keeps the switchover in that
    step."""
    with pytest.raises(PgmigError):
        async for told in session.switchover("m", 30.0):
            if (told.name, told.state) == (StepName.FREEZE, StepState.STARTED):
                services.kill9("coordinator")
