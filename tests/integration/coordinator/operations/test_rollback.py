"""Switching over with a way back, going back, and ending it."""

from __future__ import annotations

import time
from dataclasses import replace

import psycopg
import pytest

from services.shared.model import (
    DryRunStep,
    DryRunStepName,
    ErrorKind,
    FreezeMode,
    OperationKind,
    OperationState,
    PgmigError,
    Phase,
    PipelineState,
    StepName,
    StepState,
    SwitchoverOptions,
)
from tests.support.pipeline.in_process import rows
from tests.support.preflight import traces
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.both_sides import (
    DDL,
    IN_TIME,
    WITH_REVERSE,
    Application,
    back,
    differences,
    doubled,
    ended,
    equal_soon,
    missing,
    started,
    there,
    writable,
)
from tests.support.switchover.interrupted import ASKS_TO_WRITE, told

pytestmark = pytest.mark.timeout(240)

SLOTS = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute(DDL)
    return source_db


def put(uri: str, *statements: str) -> None:
    """Run statements, also where the database is read-only by default."""
    with psycopg.connect(uri, autocommit=True, options=ASKS_TO_WRITE) as conn:
        for statement in statements:
            conn.execute(statement)


def subscription(name: str) -> str:
    """Creates one that connects to nothing."""
    return (
        f"CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p"
        " WITH (connect = false, slot_name = NONE)"
    )


def drop_subscription(uri: str, name: str) -> None:
    if rows(
        uri,
        "SELECT FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname ="
        " current_database())",
    ):
        put(
            uri,
            f"ALTER SUBSCRIPTION {name} DISABLE",
            f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)",
            f"DROP SUBSCRIPTION {name}",
        )


async def test_there_and_back_under_load(services: Services, source: str, dest_db: str) -> None:
    async with services.session() as session:
        await started(session, source, dest_db)
        with Application(source, dest_db) as application:
            switched = await there(session)
            assert switched.state is OperationState.SUCCEEDED, switched.failure
            assert (await session.get("m")).phase is Phase.REVERSE
            assert (writable(source), writable(dest_db)) == (False, True)
            application.wait_for_more(30)
            first = await session.certificate("m")
            rolled = await back(session)
            assert rolled.state is OperationState.SUCCEEDED, rolled.failure
            assert rolled.kind is OperationKind.ROLLBACK
            assert (writable(source), writable(dest_db)) == (True, False)
            application.wait_for_more(30)
        view = await until_phase(session, "m", Phase.STREAMING)
        assert [one.state for one in view.pipelines] == [PipelineState.STREAMING, PipelineState.IDLE]
        await equal_soon(source, dest_db)
        assert missing(source, application.acknowledged) == set()
        assert doubled(source) == doubled(dest_db) == []
        second = await session.certificate("m")
        assert '"kind":"rollback"' in second.document
        assert '"direction":"reverse"' in second.document
        assert first == await session.certificate("m", switched.operation_id)
        assert told(view, "the destination accepts no connections")
        assert told(view, "rolled back: the source serves writers again")


async def test_sequences_follow_in_both_directions(services: Services, source: str, dest_db: str) -> None:
    async with services.session() as session:
        await started(session, source, dest_db)
        put(source, "SELECT setval('lone', 100)")
        await there(session)
        assert rows(dest_db, "SELECT last_value FROM lone") == [(100,)]
        put(dest_db, "SELECT setval('lone', 900)", "INSERT INTO note (id) VALUES (1), (2)")
        await back(session)
        assert rows(source, "SELECT last_value FROM lone") == [(900,)]
        assert differences(source, dest_db) == []
        put(source, "INSERT INTO note (id) VALUES (3)")
        await there(session)
        assert differences(source, dest_db) == []


async def test_finalize_ends_it_and_cleans_both_sides(services: Services, source: str, dest_db: str) -> None:
    before = sorted(map(str, traces(source)))
    async with services.session() as session:
        await started(session, source, dest_db)
        await there(session)
        put(dest_db, "INSERT INTO item VALUES (1)")
        with pytest.raises(PgmigError) as caught:
            await session.abort("m")
        assert "finalize" in caught.value.hint
        with pytest.raises(PgmigError) as caught:
            await session.begin_switchover("m", IN_TIME)
        assert "rollback" in caught.value.hint
        await equal_soon(source, dest_db)
        view = await session.finalize("m")
        assert view.phase is Phase.SWITCHED_OVER
        assert view.left == ()
        assert (writable(source), writable(dest_db)) == (False, True)
        for uri in (source, dest_db):
            assert rows(uri, SLOTS) == []
            assert rows(uri, "SELECT pubname FROM pg_publication") == []
            assert rows(uri, "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgmig%'") == []
        assert (await session.finalize("m")).phase is Phase.SWITCHED_OVER  # a client may ask again
        with pytest.raises(PgmigError, match="switched-over"):
            await session.begin_rollback("m", IN_TIME)
        await session.unfreeze("m")
        assert writable(source)
        assert (await session.cleanup("m")).left == ()
    assert sorted(map(str, traces(source))) == before
    assert rows(dest_db, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'") == []


async def test_a_switchover_after_a_rollback_opens_the_destination_and_guards_the_source(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await started(session, source, dest_db)
        await there(session)
        await back(session)
        last = await there(session, IN_TIME)
        assert last.state is OperationState.SUCCEEDED, last.failure
        assert (writable(source), writable(dest_db)) == (False, True)
        with pytest.raises(PgmigError) as caught:
            await session.finalize("m")
        assert caught.value.kind is ErrorKind.WRONG_PHASE
        await session.unfreeze("m")
        put(source, "INSERT INTO item VALUES (-1)")
        with pytest.raises(PgmigError) as caught:
            await session.cleanup("m")
        assert caught.value.kind is ErrorKind.LATE_WRITES
        assert (await session.cleanup("m", force=True)).left == ()
        assert writable(dest_db)


@pytest.mark.parametrize("phase", ["reverse", "rolled back", "switched over again"])
async def test_cleanup_leaves_nothing_in_any_phase(
    services: Services, source: str, dest_db: str, phase: str
) -> None:
    async with services.session() as session:
        await started(session, source, dest_db)
        await there(session)
        if phase != "reverse":
            await back(session)
        if phase == "switched over again":
            assert (await there(session, IN_TIME)).state is OperationState.SUCCEEDED
            assert (await session.get("m")).phase is Phase.SWITCHED_OVER
        if phase == "rolled back":
            assert (await session.abort("m")).left == ()
            assert writable(dest_db)
        done = await session.cleanup("m", force=phase == "reverse")
        assert done.left == ()
    live = source if phase == "rolled back" else dest_db
    assert writable(live)
    with psycopg.connect(dest_db) as conn:
        assert conn.execute(SLOTS).fetchall() == []
        assert conn.execute("SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'").fetchall() == []
    if phase != "switched over again":  # the source is closed then
        for uri in (source, dest_db):
            assert rows(uri, SLOTS) == []
            assert rows(uri, "SELECT pubname FROM pg_publication") == []
            assert rows(uri, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'") == []


async def test_what_prevents_a_way_back_refuses_the_switchover_before_it_blocks(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await started(session, source, dest_db)
        with pytest.raises(PgmigError, match="--freeze none"):
            await there(session, SwitchoverOptions(20_000, freeze=FreezeMode.NONE, reverse=True))
        put(dest_db, "ALTER TABLE plain REPLICA IDENTITY DEFAULT")
        refused = await there(session)
        assert refused.state is OperationState.FAILED
        assert refused.failure is not None
        assert "public.plain" in refused.failure.message
        assert writable(source)
        put(dest_db, "ALTER TABLE plain REPLICA IDENTITY FULL")
        put(dest_db, "INSERT INTO parent VALUES (77)")  # of somebody else
        refused = await there(session)
        assert refused.state is OperationState.FAILED
        assert refused.failure is not None
        assert "public.parent" in refused.failure.message
        assert rows(dest_db, SLOTS) == []


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("state", ["ENABLE", "DISABLE"])
async def test_a_subscription_refuses_the_switchover_before_it_blocks(
    services: Services, source: str, dest_db: str, side: str, state: str
) -> None:
    """What it writes carries an origin, and would not be replicated."""
    uri = source if side == "source" else dest_db
    async with services.session() as session:
        await started(session, source, dest_db)
        put(uri, subscription("theirs"))
        try:
            if state == "ENABLE":
                put(
                    uri,
                    "ALTER SUBSCRIPTION theirs SET (slot_name = theirs)",
                    "ALTER SUBSCRIPTION theirs ENABLE",
                )
            refused = await there(session)
            assert refused.state is OperationState.FAILED
            assert refused.failure is not None
            assert f"the {side} has subscriptions" in refused.failure.message
            assert StepName.FREEZE not in {step.name for step in refused.steps}
            assert rows(dest_db, SLOTS) == []
        finally:
            drop_subscription(uri, "theirs")
        assert (await there(session)).state is OperationState.SUCCEEDED


@pytest.mark.parametrize("direction", ["there", "back"])
async def test_a_subscription_that_is_created_during_the_freeze_undoes_the_operation(
    services: Services, source: str, dest_db: str, direction: str
) -> None:
    frozen, new = (source, dest_db) if direction == "there" else (dest_db, source)
    async with services.session() as session:
        await started(session, source, dest_db)
        if direction == "back":
            await there(session)
            operation = await session.begin_rollback("m", IN_TIME)
        else:
            operation = await session.begin_switchover("m", WITH_REVERSE)
        created = False
        try:
            async for seen in session.follow_operation(operation.operation_id, reached=True):
                operation = seen
                begun = {step.name for step in seen.steps if step.state is StepState.STARTED}
                if StepName.FREEZE in begun and not created:
                    put(new, subscription("theirs"))
                    created = True
            assert created
            assert operation.state is OperationState.ROLLED_BACK
            assert operation.failure is not None
            assert "has subscriptions now" in operation.failure.message
            assert writable(frozen)
        finally:
            drop_subscription(new, "theirs")


async def test_a_failed_switchover_leaves_nothing_of_the_way_back(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await started(session, source, dest_db)
        with psycopg.connect(source) as blocker:
            blocker.execute("INSERT INTO item VALUES (5)")
            failed = await there(session, SwitchoverOptions(12_000, reverse=True))
            assert failed.state is OperationState.ROLLED_BACK
        assert rows(dest_db, SLOTS) == []
        assert writable(source)
        assert (await there(session)).state is OperationState.SUCCEEDED
        with psycopg.connect(dest_db) as blocker:
            blocker.execute("INSERT INTO item VALUES (6)")
            failed = await back(session, SwitchoverOptions(12_000))
            assert failed.state is OperationState.ROLLED_BACK
        assert rows(source, SLOTS) == []
        assert (await session.get("m")).phase is Phase.REVERSE
        assert (writable(source), writable(dest_db)) == (False, True)
        assert (await back(session)).state is OperationState.SUCCEEDED
        assert differences(source, dest_db) == []


async def test_a_held_rollback_is_prepared_again_when_it_proceeds(
    services: Services, source: str, dest_db: str
) -> None:
    """Somebody drops the slot that was prepared while the operation waits."""
    async with services.session() as session:
        await started(session, source, dest_db)
        await there(session)
        operation = await session.begin_rollback("m", SwitchoverOptions(20_000, hold=True))
        while operation.state is not OperationState.READY:
            assert not operation.state.ended, operation.failure
            operation = await session.get_operation(operation.operation_id)
        put(source, "SELECT pg_drop_replication_slot('pgmig_m')", "DROP PUBLICATION pgmig_m")
        put(dest_db, "INSERT INTO item VALUES (1)")
        await session.proceed_operation(operation.operation_id)
        operation = await ended(session, operation)
        assert operation.state is OperationState.SUCCEEDED, operation.failure
        put(source, "INSERT INTO item VALUES (2)")
        await equal_soon(source, dest_db)


async def test_a_slot_that_vanishes_during_the_freeze_undoes_the_switchover(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await started(session, source, dest_db)
        operation = await session.begin_switchover("m", WITH_REVERSE)
        dropped = False
        async for seen in session.follow_operation(operation.operation_id, reached=True):
            operation = seen
            begun = {step.name for step in seen.steps if step.state is StepState.STARTED}
            if StepName.FREEZE in begun and not dropped:
                put(dest_db, "SELECT pg_drop_replication_slot('pgmig__reverse_m')")
                dropped = True
        assert dropped
        assert operation.state is OperationState.ROLLED_BACK
        assert writable(source)


async def test_a_table_that_is_created_on_the_new_primary_is_named_and_refuses_the_rollback(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await started(session, source, dest_db)
        await there(session)
        put(dest_db, "CREATE TABLE fresh (id int PRIMARY KEY)")
        view = await until(session, "m", lambda view: told(view, "public.fresh"))
        assert told(view, "new tables of the destination are not replicated")
        refused = await back(session)
        assert refused.failure is not None
        assert "public.fresh" in refused.failure.message
        assert writable(dest_db)
        put(dest_db, "DROP TABLE fresh")
        assert (await back(session)).state is OperationState.SUCCEEDED


async def test_others_that_write_to_the_side_that_was_left_refuse_the_rollback(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await started(session, source, dest_db)
        await there(session)
        deadline = time.monotonic() + 60
        while not rows(source, "SELECT FROM pg_trigger WHERE tgname LIKE 'pgmig%'"):
            assert time.monotonic() < deadline
        put(source, "INSERT INTO parent VALUES (77)")
        refused = await back(session)
        assert refused.failure is not None
        assert "public.parent" in refused.failure.message
        assert (writable(source), writable(dest_db)) == (False, True)


async def test_large_objects_and_unlogged_tables_do_not_prevent_a_rollback(
    services: Services, source: str, dest_db: str
) -> None:
    put(source, "CREATE UNLOGGED TABLE swift (id int PRIMARY KEY)", "INSERT INTO swift VALUES (1), (2)")
    put(source, "SELECT lo_from_bytea(700001, 'there')")
    async with services.session() as session:
        await started(session, source, dest_db)
        assert (await there(session)).state is OperationState.SUCCEEDED
        put(
            dest_db, "TRUNCATE swift", "SELECT lo_from_bytea(700002, 'back')", "SELECT lo_put(700001, 0, 'T')"
        )
        rolled = await back(session)
        assert rolled.state is OperationState.SUCCEEDED, rolled.failure
        found = "SELECT convert_from(lo_get(700001), 'UTF8') || convert_from(lo_get(700002), 'UTF8')"
        assert rows(source, found) == [("Thereback",)]


async def test_dry_run_shows_what_is_in_the_way_of_a_way_back(
    services: Services, source: str, dest_db: str
) -> None:
    async def way_back() -> DryRunStep:
        found = [one async for one in session.dry_run("m", options=WITH_REVERSE)]
        (step,) = [
            one for one in found if isinstance(one, DryRunStep) and one.name is DryRunStepName.WAY_BACK
        ]
        return step

    async with services.session() as session:
        await started(session, source, dest_db)
        step = await way_back()
        assert step.state is StepState.DONE
        assert step.detail.startswith("changes of 6 tables of the destination can be replicated back")
        assert rows(dest_db, SLOTS) == []
        put(dest_db, "ALTER TABLE item DROP CONSTRAINT item_pkey")
        step = await way_back()
        assert step.state is StepState.FAILED
        assert "public.item" in step.detail
        with pytest.raises(PgmigError) as caught:
            _ = [
                one
                async for one in session.dry_run("m", options=replace(WITH_REVERSE, freeze=FreezeMode.NONE))
            ]
        assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
