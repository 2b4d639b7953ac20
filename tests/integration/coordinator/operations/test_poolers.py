"""A switchover that pauses a real PgBouncer: its clients wait and see no error, whatever happens."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import pytest

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    FreezeMode,
    MigrationOptions,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    StepName,
    SwitchoverOptions,
)
from tests.support.servers.nats import NatsServer
from tests.support.servers.pgbouncer import PASSWORD, PgBouncer, UnobtainableError, program
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.interrupted import numbers

FOLLOW = MigrationOptions(follow=True)
LIMIT_MS = 30_000
LEAD = """
import pathlib, psycopg
path = pathlib.Path({config!r})
path.write_text({new!r})
with psycopg.connect({console!r}, autocommit=True) as conn:
    conn.execute("RELOAD")
"""
"""Leads PgBouncer to another server."""


@pytest.fixture(scope="module", autouse=True)
def _pgbouncer_is_there() -> None:
    try:
        program()
    except UnobtainableError as exc:
        if os.environ.get("PGMIG_TEST_SOURCES_REQUIRED"):
            raise
        pytest.skip(str(exc))


@pytest.fixture
def services(nats_server: NatsServer, tmp_path: Path) -> Iterator[Services]:
    with Services(nats_server, tmp_path, PGMIG_ALLOW_HOOKS="1") as running:
        yield running


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY, client int)")
    return source_db


@pytest.fixture
def pooler(source: str) -> Iterator[PgBouncer]:
    with PgBouncer({"shop": source}) as running:
        yield running


@pytest.fixture
async def session(services: Services, source: str, dest_db: str) -> AsyncIterator[Session]:
    """With migration m, which streams."""
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        yield session


@pytest.fixture
def lead(pooler: PgBouncer, dest_db: str, tmp_path: Path) -> str:
    """The command that leads the pooler to the destination."""
    before = pooler.config.read_text()
    pooler.databases["shop"] = dest_db
    pooler.write_config()
    after = pooler.config.read_text()
    pooler.config.write_text(before)
    script = tmp_path / "lead.py"
    script.write_text(LEAD.format(config=str(pooler.config), new=after, console=pooler.console))
    return shlex.join([sys.executable, str(script)])


class Clients:
    """Applications behind the pooler that write all the time. Use as a context manager.

    acknowledged: numbers that were committed. errors: what they saw.
    """

    def __init__(self, uri: str, count: int = 3) -> None:
        self._uri, self._stop = uri, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[n]) for n in range(count)]
        self._more = threading.Condition()
        self.acknowledged: list[int] = []
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, count: int = 20) -> None:
        """Return when so many more commits were acknowledged, or an error was seen."""
        with self._more:
            before = len(self.acknowledged)
            found = self._more.wait_for(
                lambda: bool(self.errors) or len(self.acknowledged) >= before + count, timeout=60
            )
        assert found, "the clients wait for ever"

    def _run(self, client: int) -> None:
        try:
            with psycopg.connect(self._uri, prepare_threshold=None) as conn:
                for number in range(client, 1 << 30, 100):
                    if self._stop.wait(0.002):
                        break
                    with conn.transaction():
                        conn.execute("INSERT INTO item VALUES (%s, %s)", [number, client])
                    with self._more:
                        self.acknowledged.append(number)
                        self._more.notify_all()
        except psycopg.Error as exc:
            with self._more:
                self.errors.append(str(exc))
                self._more.notify_all()


async def ended(session: Session, operation: Operation) -> Operation:
    async with aclosing(session.follow_operation(operation.operation_id, reached=True)) as states:
        return [state async for state in states][-1]


def steps(operation: Operation) -> list[str]:
    """The steps that are done."""
    return [step.name for step in operation.steps if step.state == "done"]


def paused(pooler: PgBouncer) -> bool:
    with psycopg.connect(pooler.console, autocommit=True) as conn:
        cursor = conn.execute("SHOW DATABASES")
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    return any(str(row["paused"]) == "1" for row in rows if row["name"] == "shop")


async def test_clients_of_a_paused_pooler_see_no_error_and_lose_no_commit(
    services: Services, session: Session, pooler: PgBouncer, dest_db: str, lead: str
) -> None:
    options = SwitchoverOptions(
        LIMIT_MS,
        pause_poolers=(pooler.uri("shop"),),
        hook_after_decision=lead,
    )
    with Clients(pooler.uri("shop")) as clients:
        operation = await ended(session, await session.begin_switchover("m", options))
        assert operation.state is OperationState.SUCCEEDED
        assert operation.result is not None
        assert operation.result.warnings == ()
        clients.wait_for_more()
    assert clients.errors == []
    assert set(clients.acknowledged) == numbers(dest_db)
    done = steps(operation)
    assert done[0] == StepName.PAUSE_POOLERS
    assert done[-3:] == [StepName.HOOK_AFTER_DECISION, StepName.RESUME_POOLERS, StepName.COMMIT]
    view = await session.get("m")
    for shown in (repr(operation), repr(view), services.log("coordinator")):
        assert PASSWORD not in shown
    for path in services.state_dir.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()


async def test_roll_back_resumes_the_pooler_then_runs_its_hook(
    session: Session, pooler: PgBouncer, source: str, tmp_path: Path
) -> None:
    written = tmp_path / "facts"
    options = SwitchoverOptions(
        3_000,
        pause_poolers=(pooler.uri("shop"),),
        hook_before_freeze="true",
        hook_after_rollback=shlex.join(["sh", "-c", 'cat > "$0"', str(written)]),
    )
    with psycopg.connect(source) as prepared:
        prepared.execute("BEGIN; INSERT INTO item VALUES (-1, 0)")  # the lock cannot be taken
        prepared.execute("SELECT pg_catalog.txid_current()")
        with Clients(pooler.uri("shop")) as clients:
            operation = await ended(session, await session.begin_switchover("m", options))
            assert operation.state is OperationState.ROLLED_BACK
            clients.wait_for_more()
    assert clients.errors == []
    assert not paused(pooler)
    done = steps(operation)
    assert done[-3:] == [StepName.RESUME_POOLERS, StepName.HOOK_AFTER_ROLLBACK, StepName.ROLLBACK]
    facts = json.loads(written.read_text())
    assert (facts["version"], facts["hook"]) == (1, "after-rollback")
    assert facts["operation"]["failure"]["kind"] == ErrorKind.TIMEOUT
    assert PASSWORD not in written.read_text()


async def test_pooler_that_cannot_be_paused_in_time_rolls_back_and_is_resumed(
    session: Session, pooler: PgBouncer
) -> None:
    options = SwitchoverOptions(3_000, pause_poolers=(pooler.uri("shop"),))
    with psycopg.connect(pooler.uri("shop")) as client:
        client.execute("SELECT 1")  # a transaction that does not end
        operation = await ended(session, await session.begin_switchover("m", options))
        assert operation.state is OperationState.ROLLED_BACK
        assert operation.failure is not None
        assert "was not paused within" in operation.failure.message
        client.execute("SELECT 1")
    assert not paused(pooler)


async def test_pooler_stays_paused_if_the_hook_after_the_decision_fails(
    session: Session, pooler: PgBouncer
) -> None:
    """It leads to the old source, which is open after a switchover that blocks nobody."""
    options = SwitchoverOptions(
        LIMIT_MS,
        freeze=FreezeMode.NONE,
        pause_poolers=(pooler.uri("shop"),),
        hook_after_decision="false",
    )
    operation = await ended(session, await session.begin_switchover("m", options))
    assert operation.state is OperationState.SUCCEEDED
    assert operation.result is not None
    failed, left = operation.result.warnings
    assert failed == "hook after-decision failed: it ended with exit code 1"
    assert "RESUME" in left
    assert paused(pooler)


@pytest.mark.parametrize("what", ["is paused by somebody else", "was restarted", "is gone"])
async def test_pooler_that_cannot_be_paused_or_resumed_does_not_keep_the_source_closed(
    session: Session, pooler: PgBouncer, source: str, what: str
) -> None:
    options = SwitchoverOptions(3_000, pause_poolers=(pooler.console,))
    foreign = what == "is paused by somebody else"
    if foreign:
        with psycopg.connect(pooler.console, autocommit=True) as conn:
            conn.execute("PAUSE")
    with psycopg.connect(source) as writer:
        writer.execute("INSERT INTO item VALUES (-1, 0)")  # the freeze does not get its lock
        operation = await session.begin_switchover("m", options)
        if not foreign:
            await paused_by(session, operation)
            pooler.kill9()
        if what == "was restarted":
            pooler.start()
        await until(session, "m", lambda view: "writers may write" in str(view.events))
        with psycopg.connect(source) as conn:
            conn.execute("INSERT INTO item VALUES (-2, 0)")
    if what == "is gone":
        pooler.start()
    operation = await ended(session, operation)
    assert operation.state is OperationState.ROLLED_BACK
    assert operation.failure is not None
    assert ("paused already" in operation.failure.message) == foreign
    assert "its clients still wait" not in str((await session.get("m")).events)
    if foreign:
        with psycopg.connect(pooler.console, autocommit=True) as conn:
            conn.execute("RESUME")  # an error if pgmig had resumed it


async def paused_by(session: Session, operation: Operation) -> None:
    """Return when the operation has paused its poolers."""
    async with aclosing(session.follow_operation(operation.operation_id)) as states:
        async for seen in states:
            if StepName.PAUSE_POOLERS in steps(seen):
                return
    raise AssertionError("it has ended before")


AFTER_THE_DECISION = ["hook-after-decision.begin", "hook-after-decision.end", "resume-poolers.begin"]
BEFORE_THE_DECISION = ["pause-poolers.begin", "pause-poolers.end", "commit.begin"]


@dataclass
class Stand:
    services: Services
    source: str
    dest: str


@pytest.fixture
def stand(services: Services, session: Session, source: str, dest_db: str) -> Stand:
    assert session is not None
    return Stand(services, source, dest_db)


@pytest.mark.parametrize("point", [*BEFORE_THE_DECISION, *AFTER_THE_DECISION])
async def test_pooler_is_resumed_after_the_coordinator_was_killed(
    stand: Stand, pooler: PgBouncer, lead: str, point: str
) -> None:
    options = SwitchoverOptions(
        LIMIT_MS,
        pause_poolers=(pooler.uri("shop"),),
        hook_after_decision=lead,
    )
    stand.services.restart_with(f"switchover.{point}=kill")
    async with stand.services.session() as again:
        await again.resume("m", stand.source, stand.dest)
        await until_phase(again, "m", Phase.STREAMING)
        with Clients(pooler.uri("shop")) as clients:
            with suppress(PgmigError):
                await again.begin_switchover("m", options, "the request")
            stand.services.await_death("coordinator")
            # The next one finds the password in its settings.
            stand.services.change(PGMIG_POOLER_URI=pooler.console)
            stand.services.start("coordinator")
            async with stand.services.session() as last:
                await last.resume("m", stand.source, stand.dest)
                (operation,) = await last.list_operations("m")
                operation = await ended(last, operation)
                decided = point in AFTER_THE_DECISION
                assert operation.state is (
                    OperationState.SUCCEEDED if decided else OperationState.ROLLED_BACK
                )
                clients.wait_for_more()
                await until_phase(last, "m", Phase.SWITCHED_OVER if decided else Phase.STREAMING)
    assert clients.errors == []
    assert not paused(pooler)
    assert set(clients.acknowledged) <= numbers(stand.dest if decided else stand.source)
