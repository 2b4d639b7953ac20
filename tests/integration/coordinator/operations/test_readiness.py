"""Whether a migration can be switched over, as clients see it while it streams: each reason in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest

from clients.session import Session
from services.shared.model import (
    DryRunResult,
    DryRunStep,
    DryRunStepName,
    ErrorKind,
    LagLimit,
    MigrationOptions,
    MigrationView,
    OperationState,
    PgmigError,
    Phase,
    Reason,
    ReasonCode,
    StepName,
    StepState,
    SwitchoverOptions,
)
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import proxied
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.guarded import ASKS_TO_WRITE
from tests.support.switchover.old_source import place

FOLLOW = MigrationOptions(follow=True)


@dataclass(frozen=True, slots=True)
class Bed:
    source: str
    dest: str


@pytest.fixture
def bed(dest_db: str) -> Iterator[Bed]:
    """A source of its own, since prepared transactions are a setting of the server."""
    with (
        PostgresServer(settings={"max_prepared_transactions": "5"}, fsync=False) as server,
        server.fresh_database("source") as uri,
    ):
        with psycopg.connect(uri) as conn:
            conn.execute("CREATE TABLE item (id int PRIMARY KEY, note text)")
            conn.execute("CREATE INDEX by_note ON item (note); CREATE TABLE other (id int PRIMARY KEY)")
            conn.execute("CREATE SEQUENCE few MAXVALUE 100; SELECT setval('few', 95)")
        yield Bed(uri, dest_db)


def by_code(view: MigrationView) -> dict[ReasonCode, Reason]:
    assert view.readiness is not None
    return {reason.code: reason for reason in view.readiness.reasons}


async def until_codes(session: Session, *codes: ReasonCode) -> dict[ReasonCode, Reason]:
    """Return when the reasons are exactly these, in any order."""
    view = await until(session, "m", lambda v: v.readiness is not None and by_code(v).keys() == set(codes))
    assert view.readiness is not None
    assert view.readiness.can_switch is not bool(view.readiness.blocking)
    return by_code(view)


async def test_every_condition_on_the_servers_is_a_reason_for_as_long_as_it_lasts(
    services: Services, bed: Bed
) -> None:
    writers = [psycopg.connect(bed.source), psycopg.connect(bed.source)]
    locker, reader = writers
    try:
        async with services.session() as session:
            await session.start("m", bed.source, bed.dest, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            stranger = psycopg.connect(bed.dest, options=ASKS_TO_WRITE)
            writers.append(stranger)
            near = await until_codes(session, ReasonCode.SEQUENCES_NEAR_END)
            assert "public.few (95% used)" in near[ReasonCode.SEQUENCES_NEAR_END].text

            locker.execute("INSERT INTO other VALUES (1)")
            reader.execute("SELECT FROM item")
            stranger.execute("INSERT INTO other VALUES (2)")
            with psycopg.connect(bed.source, autocommit=True) as conn:
                conn.execute("CREATE TABLE late (id int PRIMARY KEY)")
                conn.execute("BEGIN; INSERT INTO item VALUES (1); PREPARE TRANSACTION 'undecided'")
            with psycopg.connect(bed.dest, autocommit=True, options=ASKS_TO_WRITE) as conn:
                conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_note'::regclass")
            told = await until_codes(
                session,
                ReasonCode.TABLES_MISSING,
                ReasonCode.INVALID_INDEXES,
                ReasonCode.PREPARED_TRANSACTIONS,
                ReasonCode.LOCKED_TABLES,
                ReasonCode.LONG_TRANSACTIONS,
                ReasonCode.SEQUENCES_NEAR_END,
                ReasonCode.DESTINATION_WRITTEN,
            )
            check_texts(told, locker.info.backend_pid, reader.info.backend_pid, stranger.info.backend_pid)

            for conn in writers:
                conn.rollback()
            with psycopg.connect(bed.source, autocommit=True) as conn:
                conn.execute("ROLLBACK PREPARED 'undecided'")
                conn.execute("DROP TABLE late")
            with psycopg.connect(bed.dest, autocommit=True, options=ASKS_TO_WRITE) as conn:
                conn.execute("UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'by_note'::regclass")
            await until_codes(session, ReasonCode.SEQUENCES_NEAR_END, ReasonCode.DESTINATION_WRITTEN)
            await session.pause("m")
            assert ReasonCode.PAUSED in by_code(await session.get("m"))
    finally:
        for conn in writers:
            conn.close()


def check_texts(told: dict[ReasonCode, Reason], locker: int, reader: int, stranger: int) -> None:
    expected = {
        ReasonCode.TABLES_MISSING: ("not on the destination: public.late", "resync-table --id m public.late"),
        ReasonCode.INVALID_INDEXES: ("valid on the source: public.by_note", "REINDEX INDEX"),
        ReasonCode.PREPARED_TRANSACTIONS: ('"undecided" (role postgres', "ROLLBACK PREPARED"),
        ReasonCode.LOCKED_TABLES: (f"process {locker} (", "rolled back"),
        ReasonCode.LONG_TRANSACTIONS: (f"process {reader} (", "ends their sessions"),
        ReasonCode.DESTINATION_WRITTEN: (f"process {stranger} (", "compare these tables"),
    }
    for code, (text, remedy) in expected.items():
        assert text in told[code].text
        assert remedy in told[code].remedy
    assert "public.other" in told[ReasonCode.LOCKED_TABLES].text
    assert "on public.other at " in told[ReasonCode.DESTINATION_WRITTEN].text
    warnings = {code for code, reason in told.items() if not reason.blocking}
    assert warnings == {
        ReasonCode.LONG_TRANSACTIONS,
        ReasonCode.SEQUENCES_NEAR_END,
        ReasonCode.DESTINATION_WRITTEN,
    }


async def test_destination_that_is_away_makes_what_is_known_of_it_out_of_date(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session, proxied(place(dest_db)) as proxy:
        await session.start("m", source, dest_db.replace(place(dest_db), proxy.address), FOLLOW)
        await until(session, "m", lambda view: bool(view.readiness and view.readiness.can_switch))
        await proxy.close()
        view = await until(session, "m", lambda v: ReasonCode.DESTINATION_UNKNOWN in by_code(v))
        reason = by_code(view)[ReasonCode.DESTINATION_UNKNOWN]
        assert reason.blocking
        assert "cannot connect to destination" in reason.text
        assert "what is known of the destination is " in reason.text
        assert view.readiness is not None
        assert not view.readiness.can_switch


async def dry_run(
    session: Session, max_lag: LagLimit
) -> tuple[dict[DryRunStepName, DryRunStep], DryRunResult]:
    steps, result = {}, None
    async for one in session.dry_run("m", max_lag):
        if isinstance(one, DryRunStep):
            steps[one.name] = one
        else:
            result = one
    assert result is not None
    return steps, result


async def test_dry_run_changes_nothing_and_finds_what_would_be_in_the_way(
    services: Services, bed: Bed
) -> None:
    with psycopg.connect(bed.source, autocommit=True) as conn:
        conn.execute("SELECT lo_from_bytea(700001, 'x')")
    async with services.session() as session:
        await session.start("m", bed.source, bed.dest, FOLLOW)
        await until(session, "m", lambda view: bool(view.readiness and view.readiness.can_switch))
        with psycopg.connect(bed.source, autocommit=True) as conn:
            conn.execute("SELECT lo_put(700001, 0, 'y')")
        with psycopg.connect(bed.source) as writer:  # a dry run waits for nobody
            writer.execute("INSERT INTO item VALUES (1)")
            steps, result = await dry_run(session, LagLimit())
            writer.rollback()
        assert {step.state for step in steps.values()} == {StepState.DONE}
        if_asked_for = {DryRunStepName.HOOKS_POOLERS, DryRunStepName.WAY_BACK}
        assert list(steps) == [name for name in DryRunStepName if name not in if_asked_for]
        assert result.can_switch
        assert 200 <= result.blocked_ms < 30_000
        assert "1 large object, of which 1 differ" in steps[DryRunStepName.UNPUBLISHED].detail
        assert steps[DryRunStepName.TABLES].detail.startswith("2 tables")
        assert steps[DryRunStepName.SEQUENCES].detail.startswith("1 sequence ")
        with psycopg.connect(bed.dest) as conn:
            assert conn.execute("SELECT lo_get(700001)").fetchone() == (b"x",)
        assert (await session.get("m")).phase is Phase.STREAMING

        with psycopg.connect(bed.source, autocommit=True) as conn:
            conn.execute("CREATE TABLE late (id int PRIMARY KEY)")
            conn.execute("BEGIN; INSERT INTO item VALUES (1); PREPARE TRANSACTION 'undecided'")
        readiness = await session.readiness("m")  # asks the servers now
        codes = {reason.code for reason in readiness.reasons}
        assert ReasonCode.PREPARED_TRANSACTIONS in codes
        steps, result = await dry_run(session, LagLimit())
        failed = {name for name, step in steps.items() if step.state is StepState.FAILED}
        assert failed == {DryRunStepName.READINESS, DryRunStepName.TABLES}
        assert "public.late" in steps[DryRunStepName.TABLES].detail
        assert "resync-table" in steps[DryRunStepName.TABLES].remedy
        assert not result.can_switch
        with psycopg.connect(bed.source, autocommit=True) as conn:
            conn.execute("ROLLBACK PREPARED 'undecided'")

        await session.pause("m")
        steps, result = await dry_run(session, LagLimit())
        assert list(steps) == [DryRunStepName.CREDENTIALS, DryRunStepName.READINESS]
        assert (result.can_switch, result.estimate) == (False, ())


async def test_switchover_refuses_indexes_that_are_valid_on_the_source_only(
    services: Services, bed: Bed
) -> None:
    async with services.session() as session:
        await session.start("m", bed.source, bed.dest, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(bed.dest, autocommit=True, options=ASKS_TO_WRITE) as conn:
            conn.execute("CREATE INDEX own ON item (note)")
            conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'own'::regclass")
            conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'by_note'::regclass")
        with pytest.raises(PgmigError) as caught:
            async for _ in session.switchover("m", 30.0):
                pass
        assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
        assert caught.value.message.endswith("valid on the source: public.by_note")
        with psycopg.connect(bed.source, autocommit=True) as conn:
            conn.execute("INSERT INTO item VALUES (1)")  # nothing was blocked


async def test_switchover_blocks_no_writes_while_the_lag_is_above_its_limit(
    services: Services, bed: Bed
) -> None:
    strict = LagLimit(bytes=1)
    async with services.session() as session:
        await session.start("m", bed.source, bed.dest, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(bed.dest) as holder:
            holder.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
            with psycopg.connect(bed.source, autocommit=True) as conn:
                conn.execute("INSERT INTO item VALUES (1)")
            await until(session, "m", lambda view: view.positions.lag_bytes > 1)
            refused = (await session.readiness("m", strict)).blocking
            assert [reason.code for reason in refused] == [ReasonCode.LAG]
            operation = await session.begin_switchover("m", SwitchoverOptions(3000, max_lag=strict))
            async for seen in session.watch_operation(operation.operation_id):
                operation = seen
        assert operation.state is OperationState.FAILED
        assert StepName.FREEZE not in {step.name for step in operation.steps}
        assert operation.failure is not None
        assert operation.failure.kind is ErrorKind.TIMEOUT
        assert (
            "behind, and the limit is 30 s or 1 bytes; writes were not blocked" in operation.failure.message
        )
