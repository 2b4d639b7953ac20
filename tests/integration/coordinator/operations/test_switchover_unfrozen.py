"""A switchover that blocks nobody: the operator has stopped the application, or believes so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

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
    StepState,
    SwitchoverOptions,
)
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.interrupted import held_up, settings

UNFROZEN = SwitchoverOptions(20_000, freeze=FreezeMode.NONE)


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE SEQUENCE s")
        conn.execute("INSERT INTO item SELECT generate_series(1, 9)")
    return source_db


@pytest.fixture
async def session(services: Services, source: str, dest_db: str) -> AsyncIterator[Session]:
    """With migration m, which streams."""
    async with services.session() as session:
        await session.start("m", source, dest_db, MigrationOptions(follow=True))
        await until_phase(session, "m", Phase.STREAMING)
        yield session


async def outcome(
    session: Session,
    at: Callable[[], None] = lambda: None,
    step: StepName | None = None,
    options: SwitchoverOptions = UNFROZEN,
) -> Operation:
    """The end of a switchover during which `at` is called once, as soon as `step` begins."""
    operation, called = await session.begin_switchover("m", options), False
    async with aclosing(session.watch_operation(operation.operation_id)) as states:
        async for operation in states:
            begun = any((one.name, one.state) == (step, StepState.STARTED) for one in operation.steps)
            if begun and not called:
                called = True
                await asyncio.to_thread(at)
    return operation


def execute(uri: str, statement: str) -> None:
    with psycopg.connect(uri) as conn:
        conn.execute(statement)


def rows(uri: str) -> int:
    with psycopg.connect(uri) as conn:
        row = conn.execute("SELECT count(*) FROM item").fetchone()
    assert row is not None
    return int(row[0])


async def test_session_that_only_reads_lives_on_and_the_source_stays_as_it_is(
    session: Session, source: str, dest_db: str
) -> None:
    before = settings(source)
    with psycopg.connect(source, autocommit=True) as reading:
        execute(source, "INSERT INTO item VALUES (10)")
        operation = await outcome(session)
        assert (operation.state, operation.failure) == (OperationState.SUCCEEDED, None)
        assert operation.result is not None
        assert operation.result.write_downtime_ms == 0
        assert reading.execute("SELECT count(*) FROM item").fetchone() == (10,)
        for read_only in (False, True):
            with pytest.raises(PgmigError, match="is not frozen"):
                await session.unfreeze("m", read_only=read_only)
    assert settings(source) == before
    assert rows(dest_db) == 10
    execute(source, "INSERT INTO item VALUES (11)")
    await until(
        session, "m", lambda view: any("old source was written to" in event.text for event in view.events)
    )


async def test_write_behind_the_sentinel_rolls_the_switchover_back_with_the_table(
    session: Session, source: str, dest_db: str
) -> None:
    with psycopg.connect(dest_db) as conn:
        conn.execute("LOCK TABLE pgmig.sequences IN ACCESS EXCLUSIVE MODE")

        def write() -> None:
            execute(source, "INSERT INTO item VALUES (10)")
            conn.rollback()

        operation = await outcome(session, write, StepName.SEQUENCES)
    assert operation.state is OperationState.ROLLED_BACK
    assert operation.failure is not None
    assert operation.failure.kind is ErrorKind.SWITCHOVER_FAILED
    assert "public.item" in operation.failure.message
    await until_phase(session, "m", Phase.STREAMING)
    assert (await outcome(session)).state is OperationState.SUCCEEDED
    assert rows(dest_db) == 10


async def test_roll_back_keeps_the_read_only_default_that_the_operator_has_set(
    session: Session, source: str, dest_db: str
) -> None:
    """An application can be stopped in that way, too."""
    database = source.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(dest_db) as conn:
        conn.execute("LOCK TABLE pgmig.sequences IN ACCESS EXCLUSIVE MODE")

        def write() -> None:
            execute(source, "INSERT INTO item VALUES (10)")
            execute(source, f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
            conn.rollback()

        operation = await outcome(session, write, StepName.SEQUENCES)
    assert operation.state is OperationState.ROLLED_BACK
    await until_phase(session, "m", Phase.STREAMING)
    with psycopg.connect(source) as conn:
        assert conn.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


async def test_open_transaction_that_has_written_is_named_and_refused(session: Session, source: str) -> None:
    with psycopg.connect(source, application_name="shop") as writing:
        writing.execute("INSERT INTO item VALUES (10)")
        short = SwitchoverOptions(3_000, freeze=FreezeMode.NONE)
        operation = await outcome(session, options=short)
        assert operation.state is OperationState.ROLLED_BACK
        assert operation.failure is not None
        assert f"process {writing.info.backend_pid} (shop)" in operation.failure.message
        writing.commit()
    await until_phase(session, "m", Phase.STREAMING)
    assert (await outcome(session)).state is OperationState.SUCCEEDED


async def test_transaction_that_begins_to_write_behind_the_sentinel_is_refused(
    session: Session, source: str, dest_db: str
) -> None:
    """It is open at the end, so its commit would be lost."""
    with psycopg.connect(source) as writing, psycopg.connect(dest_db) as conn:
        conn.execute("LOCK TABLE pgmig.sequences IN ACCESS EXCLUSIVE MODE")

        def write() -> None:
            writing.execute("INSERT INTO item VALUES (10)")
            conn.rollback()

        operation = await outcome(session, write, StepName.SEQUENCES)
        assert operation.state is OperationState.ROLLED_BACK
        assert operation.failure is not None
        assert f"process {writing.info.backend_pid}" in operation.failure.message


async def test_killed_coordinator_undoes_it_and_the_migration_continues(
    services: Services, session: Session, source: str, dest_db: str
) -> None:
    before = settings(source)
    with held_up(StepName.DRAIN, source, dest_db):
        execute(source, "INSERT INTO item VALUES (10)")
        operation = await session.begin_switchover("m", UNFROZEN)
        async with aclosing(session.watch_operation(operation.operation_id)) as states:
            async for seen in states:
                if any(step.name is StepName.DRAIN for step in seen.steps):
                    break
        services.kill9("coordinator")
    services.start("coordinator")
    async with services.session() as again:
        await again.resume("m", source, dest_db)
        ended = [one async for one in again.watch_operation(operation.operation_id)][-1]
        assert ended.state is OperationState.ROLLED_BACK
        assert settings(source) == before
        await until_phase(again, "m", Phase.STREAMING)
        assert (await outcome(again)).state is OperationState.SUCCEEDED
    assert rows(dest_db) == 10
