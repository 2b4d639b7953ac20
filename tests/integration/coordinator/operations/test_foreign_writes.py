"""Writes of others to the destination, which the read-only default does not prevent, prevent a switchover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from clients.cli.certificates.document import file_of
from clients.session import Session
from services.shared.model import (
    Direction,
    ErrorKind,
    MigrationId,
    MigrationOptions,
    OperationState,
    PgmigError,
    Phase,
    PipelineId,
    Reason,
    ReasonCode,
    TableId,
)
from services.shared.model.view.certificate import CheckName, CheckOutcome
from services.shared.pg.session.connection import connection
from tests.support.pipeline.in_process import rows, run
from tests.support.services.services import Services, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE, told

FOLLOWING = MigrationOptions(follow=True)
ITEM, ONE, TWO = (TableId("public", name) for name in ("item", "p_1", "p_2"))
TRIGGERS = "SELECT tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
PARTED = (
    "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)",
    "CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100) TO (200)",
    "INSERT INTO p VALUES (1), (101)",
    "INSERT INTO item VALUES (1)",
)


@pytest.fixture
async def session(services: Services) -> AsyncIterator[Session]:
    async with services.session() as session:
        yield session


async def streaming(session: Session, source: str, dest: str, options: MigrationOptions = FOLLOWING) -> None:
    run(source, *PARTED)
    await session.start("m", source, dest, options)
    await until_phase(session, "m", Phase.STREAMING)


async def switched_over(session: Session) -> None:
    async for _ in session.switchover("m", 20.0):
        pass
    await until_phase(session, "m", Phase.SWITCHED_OVER)


async def refusal(session: Session, end: OperationState = OperationState.FAILED) -> str:
    """Why a switchover is refused. end: failed, before anything was blocked."""
    with pytest.raises(PgmigError) as caught:
        await switched_over(session)
    assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
    await until_phase(session, "m", Phase.STREAMING)
    operation = (await session.get("m")).operation
    assert operation is not None
    assert operation.state is end
    return caught.value.message


async def written(session: Session) -> Reason | None:
    """What readiness says about it now."""
    found = [
        one for one in (await session.readiness("m")).reasons if one.code is ReasonCode.DESTINATION_WRITTEN
    ]
    return found[0] if found else None


async def resync(session: Session, *tables: TableId) -> None:
    await session.resync_tables("m", tables)
    await until_phase(session, "m", Phase.STREAMING)


async def test_write_is_found_and_named_until_the_table_is_copied_again(
    session: Session, source: str, dest_db: str
) -> None:
    await streaming(session, source, dest_db)
    run(source, "INSERT INTO item VALUES (2)", "UPDATE item SET id = 3 WHERE id = 2", "TRUNCATE p_2")
    assert await written(session) is None
    with psycopg.connect(dest_db, options=ASKS_TO_WRITE, application_name="loader") as conn:
        conn.execute("INSERT INTO item VALUES (77)")
    assert "loader (role postgres) on public.item" in await refusal(session)
    reason = await written(session)
    assert reason is not None
    assert reason.blocking
    assert "resync-table --id m public.item" in reason.remedy
    await resync(session, ITEM)
    assert await written(session) is None
    await switched_over(session)
    assert rows(dest_db, "SELECT id FROM item ORDER BY 1") == [(1,), (3,)]
    assert rows(dest_db, TRIGGERS) == []
    run(dest_db, "INSERT INTO item VALUES (78)")
    certificate = file_of(await session.certificate("m")).certificate
    assert certificate.destination_writes == ()
    outcomes = {check.name: check.outcome for check in certificate.checks}
    assert outcomes[CheckName.DESTINATION_UNWRITTEN] is CheckOutcome.PASSED


@pytest.mark.parametrize("level", ["read committed", "serializable"])
async def test_each_kind_of_statement_is_found(
    session: Session, source: str, dest_db: str, level: str
) -> None:
    await streaming(session, source, dest_db)
    options = f"{ASKS_TO_WRITE} -c default_transaction_isolation={level.replace(' ', chr(92) + ' ')}"
    for statement in (
        "INSERT INTO item VALUES (5)",
        "UPDATE item SET id = 6 WHERE id = 5",
        "DELETE FROM item WHERE id = 6",
        "TRUNCATE item",
        "COPY item FROM PROGRAM 'echo 7'",
    ):
        with psycopg.connect(dest_db, options=options) as conn:
            conn.execute(statement)
        assert await written(session) is not None, statement
        with psycopg.connect(dest_db, options=ASKS_TO_WRITE) as conn:
            conn.execute("DELETE FROM pgmig.foreign_write")
        assert await written(session) is None


async def test_write_to_a_partitioned_table_is_found(session: Session, source: str, dest_db: str) -> None:
    """It may have changed each partition, so all of them are copied again."""
    await streaming(session, source, dest_db)
    run(dest_db, "UPDATE p SET id = id + 1")
    assert "public.p at" in await refusal(session)
    await resync(session, ONE)
    assert await written(session) is not None
    await resync(session, ONE, TWO)
    assert await written(session) is None
    run(dest_db, "DELETE FROM p_2")
    assert "public.p_2 at" in await refusal(session)


async def test_open_transaction_that_writes_prevents_the_decision(
    session: Session, source: str, dest_db: str
) -> None:
    """Nothing of it is recorded yet. It could commit after the decision."""
    await streaming(session, source, dest_db)
    with psycopg.connect(dest_db, options=ASKS_TO_WRITE, application_name="slow") as conn:
        conn.execute("DELETE FROM item")
        assert "slow" in await refusal(session, OperationState.ROLLED_BACK)
    await until_phase(session, "m", Phase.STREAMING)


async def test_writes_are_only_a_warning_if_others_may_write(
    session: Session, source: str, dest_db: str
) -> None:
    await streaming(session, source, dest_db, replace(FOLLOWING, no_guard_destination=True))
    run(dest_db, "INSERT INTO item VALUES (77)")
    reason = await written(session)
    assert reason is not None
    assert not reason.blocking
    await switched_over(session)
    assert told(await session.get("m"), "others have written to tables of the destination")
    certificate = file_of(await session.certificate("m")).certificate
    assert certificate.options.no_guard_destination
    assert [(one.table, one.session) for one in certificate.destination_writes] == [
        ("item", "unnamed (role postgres)")
    ]
    outcomes = {check.name: check.outcome for check in certificate.checks}
    assert outcomes[CheckName.DESTINATION_UNWRITTEN] is CheckOutcome.NOT_MADE


async def test_triggers_are_gone_after_abort_and_cleanup(session: Session, source: str, dest_db: str) -> None:
    with psycopg.connect(dest_db) as conn:
        await streaming(session, source, dest_db)
        assert rows(dest_db, TRIGGERS) == [("item",), ("p",), ("p_1",), ("p_2",)]
        conn.execute("SELECT FROM item")  # so that its trigger cannot be dropped now
        await session.abort("m")
        assert rows(dest_db, TRIGGERS) == [("item",)]
        run(dest_db, "SET lock_timeout = '5s'", "INSERT INTO item VALUES (9)")
        assert rows(dest_db, "SELECT FROM pgmig.foreign_write") == []
        with pytest.raises(PgmigError, match=r"public\.item"):
            await session.cleanup("m")
    await session.cleanup("m")
    assert rows(dest_db, TRIGGERS) == []
    assert rows(dest_db, "SELECT FROM pg_namespace WHERE nspname = 'pgmig'") == []


async def test_emptying_a_table_that_is_divided_is_not_recorded(
    session: Session, source: str, dest_db: str
) -> None:
    """The coordinator itself empties it, in a session whose role need not be `replica`."""
    run(source, "INSERT INTO item SELECT generate_series(10, 20000)")
    await streaming(session, source, dest_db, replace(FOLLOWING, split_tables_larger_than=100_000))
    await resync(session, ITEM)
    assert await written(session) is None
    async with connection(dest_db, "destination") as conn:
        await conn.execute("UPDATE public.item SET id = id")
    assert await written(session) is None
    await switched_over(session)


async def test_subscription_that_writes_is_found(session: Session, source: str, dest_db: str) -> None:
    """Its changes fire no trigger."""
    await streaming(session, source, dest_db)
    publication = PipelineId(MigrationId("m"), Direction.FORWARD).publication
    with psycopg.connect(dest_db, autocommit=True, options=ASKS_TO_WRITE) as conn:
        conn.execute(
            sql.SQL(
                "CREATE SUBSCRIPTION theirs CONNECTION {} PUBLICATION {} WITH (copy_data = false)"
            ).format(sql.Literal(source), sql.Identifier(publication))
        )
        try:
            async with asyncio.timeout(60):
                while await written(session) is None:
                    await asyncio.sleep(0.1)  # the worker does not report that it has started
            assert "subscription theirs on public.item" in await refusal(session)
        finally:
            conn.execute("DROP SUBSCRIPTION theirs")
