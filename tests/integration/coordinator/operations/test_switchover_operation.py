"""A switchover as an operation with real servers: cancelled in any step, held, and continued after a crash.

A session that asks to write, whatever the database's default says, writes throughout.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import psycopg
import pytest

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    MigrationOptions,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    StepName,
    SwitchoverOptions,
)
from tests.support.services.services import Services, until_phase
from tests.support.switchover.interrupted import Writer, check, held_up, settings
from tests.support.switchover.steps import AROUND

FOLLOW = MigrationOptions(follow=True)
IN_TIME = SwitchoverOptions(60_000)
HELD = SwitchoverOptions(20_000, hold=True)
BEFORE_THE_DECISION = [step for step in StepName if step not in {StepName.COMMIT, StepName.ROLLBACK, *AROUND}]


@pytest.fixture
def source(source_db: str) -> str:
    """With a large object, so that the step that compares these takes place."""
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE SEQUENCE s")
        conn.execute("SELECT lo_from_bytea(700001, 'x')")
    return source_db


@pytest.fixture
async def session(services: Services, source: str, dest_db: str) -> AsyncIterator[Session]:
    """With migration m, which streams."""
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        yield session


async def reached(
    session: Session, operation: Operation, step: StepName | None = None, state: OperationState | None = None
) -> Operation:
    """The operation in that step or state, or at its end."""
    seen = operation
    async with aclosing(session.follow_operation(operation.operation_id, reached=True)) as states:
        async for seen in states:
            if seen.state is state or any(one.name is step for one in seen.steps):
                break
    return seen


async def ended(session: Session, operation: Operation) -> Operation:
    return await reached(session, operation)


@pytest.mark.parametrize("step", BEFORE_THE_DECISION)
async def test_switchover_that_is_cancelled_in_any_step_opens_the_source_again(
    services: Services, source: str, dest_db: str, step: StepName
) -> None:
    before = settings(source)
    services.restart_with(f"switchover.{step}.begin=pause")
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with Writer(source) as writer:
            operation = await session.begin_switchover("m", IN_TIME)
            await reached(session, operation, step)
            await session.cancel_operation(operation.operation_id)
            operation = await ended(session, operation)
            assert (operation.state, operation.failure) == (OperationState.CANCELLED, None)
            view = await session.get("m")
            assert view.phase in {Phase.STREAMING, Phase.CATCHUP}
            assert view.failure is None
            assert settings(source) == before
            await check(session, view, source, dest_db, writer)


async def test_switchover_that_is_cancelled_before_it_is_answered_does_not_take_place(
    session: Session, source: str, dest_db: str
) -> None:
    """Another client sees it as soon as it is recorded."""
    with Writer(source) as writer:
        beginning = asyncio.create_task(session.begin_switchover("m", IN_TIME))
        while not (known := await session.list_operations("m")):
            await asyncio.sleep(0)
        await session.cancel_operation(known[-1].operation_id)
        await beginning
        assert (await ended(session, known[-1])).state is OperationState.CANCELLED
        await check(session, await session.get("m"), source, dest_db, writer)


async def test_repeated_request_gets_the_operation_and_its_result(
    session: Session, source: str, dest_db: str
) -> None:
    with held_up(StepName.DRAIN, source, dest_db):
        with psycopg.connect(source) as conn:
            conn.execute("INSERT INTO item VALUES (1)")
        first = await session.begin_switchover("m", IN_TIME, "once")
        await reached(session, first, StepName.DRAIN)
        again = await session.begin_switchover("m", IN_TIME, "once")
        assert again.operation_id == first.operation_id
        with pytest.raises(PgmigError, match=first.operation_id) as caught:
            await session.begin_switchover("m", IN_TIME, "twice")
        assert caught.value.kind is ErrorKind.WRONG_PHASE
    await ended(session, first)
    later = await session.begin_switchover("m", IN_TIME, "once")
    assert (later.operation_id, later.state) == (first.operation_id, OperationState.SUCCEEDED)
    assert later.result == (await session.get("m")).switchover
    assert later.steps[-1].name is StepName.COMMIT
    assert [step.at for step in later.steps] == sorted(step.at for step in later.steps)
    with pytest.raises(PgmigError) as caught:
        await session.cancel_operation(first.operation_id)
    assert caught.value.kind is ErrorKind.WRONG_PHASE


async def test_held_switchover_blocks_nobody_survives_a_crash_and_proceeds(
    services: Services, session: Session, source: str, dest_db: str
) -> None:
    before = settings(source)
    with Writer(source) as writer:
        operation = await session.begin_switchover("m", HELD)
        assert (await reached(session, operation, state=OperationState.READY)).state is OperationState.READY
        assert settings(source) == before
        writer.wait_for_more()
        with pytest.raises(PgmigError, match="cannot be paused"):
            await session.pause("m")
        services.kill9("coordinator")
        services.start("coordinator")
        async with services.session() as again:
            (found,) = await again.list_operations("m")
            assert (found.operation_id, found.state) == (operation.operation_id, OperationState.PREPARING)
            await again.resume("m", source, dest_db)
            assert (await reached(again, found, state=OperationState.READY)).state is OperationState.READY
            writer.wait_for_more()
            await again.proceed_operation(operation.operation_id)
            operation = await ended(again, operation)
            assert operation.state is OperationState.SUCCEEDED
            await check(again, await again.get("m"), source, dest_db, writer)


async def test_held_switchover_is_cancelled_and_the_migration_continues(
    session: Session, source: str, dest_db: str
) -> None:
    with Writer(source) as writer:
        operation = await session.begin_switchover("m", HELD)
        await reached(session, operation, state=OperationState.READY)
        await session.cancel_operation(operation.operation_id)
        assert (await ended(session, operation)).state is OperationState.CANCELLED
        await check(session, await session.get("m"), source, dest_db, writer)


async def test_coordinator_killed_while_it_prepares_continues_in_time(
    services: Services, session: Session, source: str, dest_db: str
) -> None:
    services.kill9("applier")
    await until_phase(session, "m", Phase.CATCHUP)
    operation = await session.begin_switchover("m", IN_TIME)
    services.kill9("coordinator")
    services.start("coordinator", "applier")
    async with services.session() as again:
        assert (await again.get_operation(operation.operation_id)).state is OperationState.PREPARING
        await again.resume("m", source, dest_db)
        assert (await ended(again, operation)).state is OperationState.SUCCEEDED


async def test_coordinator_killed_while_it_prepares_does_not_begin_too_late(
    services: Services, session: Session, source: str
) -> None:
    services.kill9("applier")
    await until_phase(session, "m", Phase.CATCHUP)
    operation = await session.begin_switchover("m", SwitchoverOptions(100))
    services.kill9("coordinator")
    services.start("coordinator")
    async with services.session() as again:
        operation = await ended(again, operation)
        assert operation.state is OperationState.FAILED
        assert operation.failure is not None
        assert operation.failure.kind in {ErrorKind.TIMEOUT, ErrorKind.CREDENTIALS_NEEDED}
        assert "writes were not blocked" in operation.failure.message
    with psycopg.connect(source) as conn:
        conn.execute("INSERT INTO item VALUES (1)")


@pytest.mark.parametrize("step", [StepName.DRAIN, StepName.COMMIT])
async def test_coordinator_killed_while_it_blocks_writes_tells_the_outcome(
    services: Services, session: Session, source: str, dest_db: str, step: StepName
) -> None:
    with Writer(source) as writer:
        with held_up(step, source, dest_db):
            operation = await session.begin_switchover("m", IN_TIME, "once")
            await reached(session, operation, step)
            services.kill9("coordinator")
        services.start("coordinator")
        async with services.session() as again:
            await again.resume("m", source, dest_db)
            operation = await ended(again, operation)
            view = await again.get("m")
            if view.phase is Phase.SWITCHED_OVER:
                assert step is StepName.COMMIT
                assert (operation.state, operation.result) == (OperationState.SUCCEEDED, view.switchover)
            else:
                assert operation.state is OperationState.ROLLED_BACK
                assert operation.failure is not None
                assert "the coordinator ended before" in operation.failure.message
            repeated = await again.begin_switchover("m", IN_TIME, "once")
            assert repeated == operation
            await check(again, view, source, dest_db, writer)


async def test_coordinator_stopped_in_a_held_switchover_leaves_it_to_the_next_one(
    services: Services, session: Session, source: str, dest_db: str
) -> None:
    operation = await session.begin_switchover("m", HELD)
    await reached(session, operation, state=OperationState.READY)
    services.restart("coordinator")
    async with services.session() as again:
        await again.resume("m", source, dest_db)
        assert (await reached(again, operation, state=OperationState.READY)).state is OperationState.READY
        await again.proceed_operation(operation.operation_id)
        assert (await ended(again, operation)).state is OperationState.SUCCEEDED
