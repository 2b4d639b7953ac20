"""Sessions of random kinds write through a switchover; no acknowledged commit may be missing afterwards.

PGMIG_FREEZE_SWITCHOVERS=200 runs that many, PGMIG_FREEZE_SEED=n begins at another seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.shared.model import ErrorKind, MigrationOptions, PgmigError, Phase
from tests.support.servers.door import reopen
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until_phase
from tests.support.switchover.freeze_writers import (
    KINDS,
    Place,
    Writer,
    may_run,
    prepare_place,
    remove_place,
)

SWITCHOVERS = int(os.environ.get("PGMIG_FREEZE_SWITCHOVERS", "3"))
FIRST_SEED = int(os.environ.get("PGMIG_FREEZE_SEED", "1"))
ATTEMPTS = 6
ROLLED_BACK = {
    ErrorKind.WRONG_PHASE,
    ErrorKind.TIMEOUT,
    ErrorKind.SWITCHOVER_FAILED,
    ErrorKind.TRANSIENT,
    ErrorKind.UNREACHABLE,
}


@pytest.fixture(scope="module")
def preparing_server() -> Iterator[PostgresServer]:
    """A source whose applications may prepare transactions."""
    settings = {"max_prepared_transactions": "20", "wal_retrieve_retry_interval": "200ms"}
    with PostgresServer(settings=settings, fsync=False) as server:
        yield server


@pytest.mark.timeout(120 + 60 * SWITCHOVERS)
async def test_no_acknowledged_commit_is_missing(
    preparing_server: PostgresServer, dest_server: PostgresServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            for seed in range(FIRST_SEED, FIRST_SEED + SWITCHOVERS):
                await one_switchover(session, seed, preparing_server, dest_server)


async def one_switchover(
    session: Session, seed: int, source_server: PostgresServer, dest_server: PostgresServer
) -> None:
    chance = random.Random(seed)
    as_owner = chance.random() < 0.4
    with ExitStack() as stack:
        source = stack.enter_context(source_server.fresh_database("freeze"))
        dest = stack.enter_context(dest_server.fresh_database("freeze"))
        upstream = stack.enter_context(dest_server.fresh_database("upstream"))
        place = prepare_place(source_server, source, upstream)
        stack.callback(remove_place, place)
        able = [kind for kind in KINDS if may_run(kind, as_owner=as_owner)]
        chosen = [chance.choice(able) for _ in range(chance.randint(3, 6))]
        shown = f"seed {seed}, by the {'owner' if as_owner else 'superuser'}: {', '.join(chosen)}"
        name = f"f{seed}"
        await session.start(
            name,
            place.owner if as_owner else source,
            dest,
            MigrationOptions(follow=True, no_owner=True, no_acl=True),
        )
        await until_phase(session, name, Phase.STREAMING)
        writers = [Writer(kind, number, place) for number, kind in enumerate(chosen)]
        with ExitStack() as running:
            for writer in writers:
                writer.start()
                running.callback(writer.stop)
            for writer in writers:
                writer.wait_for(3)
            await switched_over(session, name, chance, shown)
            for writer in writers:
                writer.try_again(3)
        check(place, dest, writers, shown)
        left = (await session.cleanup(name, force=True)).left
        assert not left, f"{shown}: {left}"


async def switched_over(session: Session, name: str, chance: random.Random, shown: str) -> None:
    """A switchover that gives way to the writers is tried again."""
    for _ in range(ATTEMPTS):
        await until_phase(session, name, Phase.STREAMING)
        try:
            async for _ in session.switchover(name, chance.uniform(4.0, 8.0)):
                pass
        except PgmigError as exc:
            assert exc.kind in ROLLED_BACK, f"{shown}: {exc}"
        else:
            await until_phase(session, name, Phase.SWITCHED_OVER)
            return
    raise AssertionError(f"{shown}: no switchover succeeded")


def check(place: Place, dest: str, writers: list[Writer], shown: str) -> None:
    with psycopg.connect(reopen(place.source)) as conn:
        at_source = {tuple(row) for row in conn.execute("SELECT writer, number FROM app.written")}
    with psycopg.connect(dest) as conn:
        arrived = {tuple(row) for row in conn.execute("SELECT writer, number FROM app.written")}
    acknowledged = {pair for writer in writers for pair in writer.acknowledged}
    assert acknowledged <= arrived, f"{shown}: {sorted(acknowledged - arrived)[:5]} are missing"
    assert at_source == arrived, f"{shown}: {sorted(at_source ^ arrived)[:5]} differ"
