"""The coordinator is killed at each failpoint of a switchover with --reverse and of a rollback.

Afterwards exactly one side can be written to. It has every acknowledged commit, the result of the operation
says which side it is, and the way back and forth still works.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import psycopg
import pytest

from clients.session import Session
from services.coordinator.migration.failpoints import Edge, Point
from services.shared.model import Operation, OperationKind, OperationState, PgmigError, Phase, StepName
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.both_sides import (
    DDL,
    IN_TIME,
    WITH_REVERSE,
    Application,
    back,
    doubled,
    ended,
    equal_soon,
    missing,
    started,
    there,
    writable,
)

pytestmark = pytest.mark.timeout(240)

BEGUN_AGAIN = (Point.REQUESTED, Point.INTENDED, Point.PREPARED)
"""Nothing is blocked yet, so the next coordinator continues."""
UNDONE = (Point.RECORDED, Point.LOCKED, Point.READ_ONLY)
DECIDED = (Point.DECIDED, Point.TURNED, Point.ADMITTED, Point.RETIRED, Point.FINISHED, Point.ISSUED)
STEPS = (
    f"{StepName.FREEZE}.{Edge.END}",
    f"{StepName.DRAIN}.{Edge.BEGIN}",
    f"{StepName.CLOSE}.{Edge.END}",
    f"{StepName.SEQUENCES}.{Edge.END}",
    f"{StepName.VERIFY}.{Edge.END}",
    f"{StepName.COMMIT}.{Edge.BEGIN}",
)
SET_UP = [f"switchover.{point}=kill" for point in (*BEGUN_AGAIN[1:], *DECIDED, STEPS[-1])]
ROLLBACK = [f"rollback.{point}=kill" for point in (*BEGUN_AGAIN, *UNDONE, *STEPS, *DECIDED)]
ROLLBACK += [
    f"rollback.{StepName.VERIFY}.{Edge.END}=error,rollback.{point}=kill"
    for point in (Point.UNDOING, Point.OPENED, Point.UNDONE)
]


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute(DDL)
    return source_db


@pytest.fixture
async def migrating(services: Services, source: str, dest_db: str) -> AsyncIterator[None]:
    async with services.session() as session:
        await started(session, source, dest_db)
    yield


def decided(failpoints: str) -> bool:
    point = failpoints.removesuffix("=kill").partition(".")[2]
    return point in (*BEGUN_AGAIN, *DECIDED)


async def killed(services: Services, source: str, dest: str, failpoints: str, kind: OperationKind) -> None:
    services.restart_with(failpoints)
    async with services.session() as session:
        await session.resume("m", source, dest)
        live = Phase.STREAMING if kind is OperationKind.SWITCHOVER else Phase.REVERSE
        await until(session, "m", lambda view: view.phase is live and not view.needs_credentials)
        with suppress(PgmigError):  # it may be killed before it answers
            if kind is OperationKind.ROLLBACK:
                await session.begin_rollback("m", IN_TIME, "the request")
            else:
                await session.begin_switchover("m", WITH_REVERSE, "the request")
        services.await_death("coordinator")


async def last(session: Session) -> Operation:
    operations = await session.list_operations("m")
    return await ended(session, operations[-1])


@pytest.mark.parametrize("failpoints", SET_UP)
@pytest.mark.usefixtures("migrating")
async def test_coordinator_killed_while_the_way_back_is_set_up(
    services: Services, source: str, dest_db: str, failpoints: str
) -> None:
    with Application(source, dest_db) as application:
        await killed(services, source, dest_db, failpoints, OperationKind.SWITCHOVER)
        services.start("coordinator")
        async with services.session() as session:
            await session.resume("m", source, dest_db)
            operation = await last(session)
            if decided(failpoints):
                assert operation.state is OperationState.SUCCEEDED, operation.failure
                assert (writable(source), writable(dest_db)) == (False, True)
            else:
                assert operation.state is OperationState.ROLLED_BACK
                assert (writable(source), writable(dest_db)) == (True, False)
                assert (await there(session)).state is OperationState.SUCCEEDED
            application.wait_for_more(5)
            rolled = await back(session)
            assert rolled.state is OperationState.SUCCEEDED, rolled.failure
            application.wait_for_more(5)
    await equal_soon(source, dest_db)
    assert missing(source, application.acknowledged) == set()
    assert doubled(source) == doubled(dest_db) == []


@pytest.mark.parametrize("failpoints", ROLLBACK)
@pytest.mark.usefixtures("migrating")
async def test_coordinator_killed_during_a_rollback_leaves_one_writable_side(
    services: Services, source: str, dest_db: str, failpoints: str
) -> None:
    async with services.session() as session:
        assert (await there(session)).state is OperationState.SUCCEEDED
    with Application(source, dest_db) as application:
        await killed(services, source, dest_db, failpoints, OperationKind.ROLLBACK)
        services.start("coordinator")
        async with services.session() as session:
            await session.resume("m", source, dest_db)
            operation = await last(session)
            assert operation.kind is OperationKind.ROLLBACK
            if decided(failpoints):
                assert operation.state is OperationState.SUCCEEDED, operation.failure
                assert (writable(source), writable(dest_db)) == (True, False)
                await until_phase(session, "m", Phase.STREAMING)
            else:
                assert operation.state is OperationState.ROLLED_BACK
                assert (writable(source), writable(dest_db)) == (False, True)
                assert (await session.get("m")).phase is Phase.REVERSE
                application.wait_for_more(5)
                rolled = await back(session)
                assert rolled.state is OperationState.SUCCEEDED, rolled.failure
            application.wait_for_more(5)
    await equal_soon(source, dest_db)
    assert missing(source, application.acknowledged) == set()
    assert doubled(source) == doubled(dest_db) == []


@pytest.mark.usefixtures("migrating")
async def test_cleanup_of_an_undecided_rollback_opens_the_destination_and_not_the_source(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        assert (await there(session)).state is OperationState.SUCCEEDED
    await killed(
        services, source, dest_db, f"rollback.{StepName.DRAIN}.{Edge.BEGIN}=kill", OperationKind.ROLLBACK
    )
    services.start("coordinator")  # it has no credentials, so the rollback is neither undone nor decided
    async with services.session() as session:
        assert (writable(source), writable(dest_db)) == (False, False)
        await until(session, "m", lambda view: len(view.workers) > 1)  # else their slot is still in use
        assert (await session.cleanup("m", source, dest_db, force=True)).left == ()
    assert (writable(source), writable(dest_db)) == (False, True)
