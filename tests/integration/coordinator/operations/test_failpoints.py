"""The coordinator is killed at each failpoint of a switchover, and the next one finishes or undoes it.

Afterwards one side is writable, it has every acknowledged commit, and the operation says what happened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import psycopg
import pytest
from psycopg import conninfo

from clients.session import Session
from services.coordinator.migration.failpoints import STEPS, Edge, Point
from services.shared.model import (
    MigrationOptions,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    StepName,
    SwitchoverOptions,
)
from tests.support.services.services import Services, until_phase
from tests.support.switchover.interrupted import Writer, check, settings
from tests.support.switchover.steps import AROUND

FOLLOW = MigrationOptions(follow=True)
IN_TIME = SwitchoverOptions(20_000)
AFTER_THE_DECISION = f"switchover.{StepName.COMMIT}.{Edge.END}"
FINISHED = [
    *(f"switchover.{point}" for point in (Point.REQUESTED, Point.DECIDED, Point.FINISHED, Point.ISSUED)),
    AFTER_THE_DECISION,
]
"""After the first one nothing was begun, so the next coordinator begins. After the others it was decided."""
UNDONE = [
    *(f"switchover.{point}" for point in (Point.RECORDED, Point.LOCKED, Point.READ_ONLY)),
    *(f"switchover.{step}.{edge}" for step in STEPS if step not in AROUND for edge in Edge),
]
UNDONE.remove(AFTER_THE_DECISION)
IN_THE_UNDO = [
    f"switchover.{StepName.VERIFY}.{Edge.END}=error,switchover.{point}=kill"
    for point in (Point.UNDOING, Point.OPENED, Point.UNDONE)
]


@pytest.fixture
def source(source_db: str) -> str:
    """With a large object, so that the step that compares these takes place."""
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE SEQUENCE s")
        conn.execute("SELECT lo_from_bytea(700001, 'x')")
    return source_db


@pytest.fixture
async def migrating(services: Services, source: str, dest_db: str) -> AsyncIterator[None]:
    """Migration m streams."""
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
    yield


def writable(uri: str) -> bool:
    """Whether an application can write there that asks for nothing special."""
    try:
        with psycopg.connect(conninfo.make_conninfo(uri, connect_timeout=5)) as conn:
            conn.execute("CREATE TABLE written (); DROP TABLE written")
    except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction):
        return False
    return True


async def killed(services: Services, source: str, dest: str, failpoints: str) -> None:
    """Switch over with a coordinator that kills itself."""
    services.restart_with(failpoints)
    async with services.session() as session:
        await session.resume("m", source, dest)
        await until_phase(session, "m", Phase.STREAMING)
        with suppress(PgmigError):  # it may be killed before it answers
            await session.begin_switchover("m", IN_TIME, "the request")
        services.await_death("coordinator")


async def end(session: Session) -> Operation:
    """The only operation of the migration, when it has ended."""
    (operation,) = await session.list_operations("m")
    async with aclosing(session.follow_operation(operation.operation_id, reached=True)) as states:
        return [state async for state in states][-1]


@pytest.mark.parametrize("failpoints", [*(f"{point}=kill" for point in (*FINISHED, *UNDONE)), *IN_THE_UNDO])
@pytest.mark.usefixtures("migrating")
async def test_coordinator_killed_at_a_failpoint_leaves_one_writable_side(
    services: Services, source: str, dest_db: str, failpoints: str
) -> None:
    before = settings(source)
    point = failpoints.removesuffix("=kill")
    with Writer(source) as writer:
        await killed(services, source, dest_db, failpoints)
        services.start("coordinator")
        async with services.session() as session:
            await session.resume("m", source, dest_db)
            operation = await end(session)
            view = await session.get("m")
            if point in FINISHED:
                assert operation.state is OperationState.SUCCEEDED
                assert operation.result == view.switchover
                assert view.phase is Phase.SWITCHED_OVER
                assert (writable(source), writable(dest_db)) == (False, True)
            else:
                assert operation.state is OperationState.ROLLED_BACK
                assert operation.failure is not None
                assert view.phase is not Phase.SWITCHED_OVER
                assert settings(source) == before
                assert writable(source)
            await check(session, view, source, dest_db, writer)
            await session.unfreeze("m")
    assert settings(source) == before
