"""What the destination promises of its rows: foreign keys of tables that are not replicated in full, and
unique indexes that the source's own rows violate."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.shared.model import (
    MigrationOptions,
    MigrationView,
    NoKeyTables,
    PgmigError,
    Phase,
    StepName,
    StepState,
    TableId,
    TableState,
)
from services.shared.pg.schema.unchecked_keys import loosen_keys
from services.shared.pg.session.connection import connection
from tests.integration.coordinator.tables.test_no_key_tables import flushed, warned
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until, until_phase

KEYS = [
    "CREATE TABLE log (id int UNIQUE, note text)",  # no replica identity
    "CREATE TABLE other (id int PRIMARY KEY)",
    "CREATE TABLE entry (id int PRIMARY KEY, log int CONSTRAINT of_log REFERENCES log (id) ON DELETE CASCADE,"
    ' other int CONSTRAINT "Of Other" REFERENCES other)',
    "COMMENT ON CONSTRAINT of_log ON entry IS 'kept'",
    "CREATE UNLOGGED TABLE scratch (other int CONSTRAINT of_scratch REFERENCES other)",
    "INSERT INTO log VALUES (1), (2)",
    "INSERT INTO other VALUES (1), (2)",
    "INSERT INTO entry VALUES (1, 1, 1), (2, 2, 2)",
    "INSERT INTO scratch VALUES (1)",
]
NOT_RECORDED = "SET session_replication_role = replica"
"""Nor would a crash be a write of somebody else."""
VALID = "SELECT conname, convalidated FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 ORDER BY 1"


@pytest.mark.parametrize("choice", [NoKeyTables.INSERT_ONLY, NoKeyTables.COPY_ONLY])
async def test_keys_of_tables_that_are_not_replicated_in_full_are_not_valid(
    services: Services, source_db: str, dest_db: str, choice: NoKeyTables
) -> None:
    run(source_db, *KEYS)
    async with services.session() as session:
        await session.start("m", source_db, dest_db, MigrationOptions(follow=True, no_key_tables=choice))
        view = await until_phase(session, "m", Phase.STREAMING)
        assert warned(view, "of_log of public.entry, of_scratch of public.scratch")
        assert rows(dest_db, VALID) == [("Of Other", True), ("of_log", False), ("of_scratch", False)]
        described = "SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conname = 'of_log'"
        assert rows(dest_db, described) == [("kept",)]
        run(source_db, "DELETE FROM log WHERE id = 1", "DELETE FROM entry WHERE id = 2")
        await flushed(session, source_db)
        assert (
            rows(dest_db, "SELECT id, log FROM entry") == rows(source_db, "SELECT id, log FROM entry") == []
        )
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run(dest_db, "INSERT INTO entry VALUES (9, 9, 1)")


async def test_keys_that_the_destination_brought_itself_are_only_named(
    services: Services, source_db: str, dest_db: str
) -> None:
    run(source_db, *KEYS)
    run(dest_db, *(one for one in KEYS if not one.startswith("INSERT")))
    options = MigrationOptions(follow=True, data_only=True, no_key_tables=NoKeyTables.INSERT_ONLY)
    async with services.session() as session:
        await session.start("m", source_db, dest_db, options)
        view = await until_phase(session, "m", Phase.STREAMING)
        assert warned(view, "foreign keys of the destination")
        assert warned(view, "of_log of public.entry, of_scratch of public.scratch")
        assert rows(dest_db, VALID) == [("Of Other", True), ("of_log", True), ("of_scratch", True)]


async def test_keys_of_partitioned_tables_count_with_any_partition_and_go_where_they_must_be_valid(
    source_db: str, dest_db: str
) -> None:
    for uri, expected in ((dest_db, [("of_root", False)]), (source_db, [])):  # 18, 17
        run(
            uri,
            "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY LIST (id)",
            "CREATE TABLE leaf PARTITION OF root DEFAULT",
            "CREATE TABLE child (id int CONSTRAINT of_root REFERENCES root)",
        )
        async with connection(uri, "destination") as conn:
            loose = await loosen_keys(conn, [TableId("public", "leaf")])
            assert "of_root of public.child" in loose.warnings[0]
            assert await loosen_keys(conn, [TableId("public", "leaf")]) == type(loose)()
        assert rows(uri, VALID) == expected


async def test_unlogged_tables_that_are_not_the_migrations_keep_their_keys(dest_db: str) -> None:
    run(
        dest_db,
        "CREATE UNLOGGED TABLE ours (id int PRIMARY KEY)",
        "CREATE UNLOGGED TABLE theirs (id int PRIMARY KEY)",
        "CREATE UNLOGGED TABLE child (a int CONSTRAINT of_ours REFERENCES ours)",
        "CREATE UNLOGGED TABLE other (a int CONSTRAINT of_theirs REFERENCES theirs)",
    )
    async with connection(dest_db, "destination") as conn:
        loose = await loosen_keys(conn, [], [TableId("public", "ours")])
    assert loose.unchecked == ("of_ours of public.child",)
    assert rows(dest_db, VALID) == [("of_ours", False), ("of_theirs", True)]


DAMAGED = [
    "CREATE TABLE t (id int PRIMARY KEY, code text CONSTRAINT t_code UNIQUE)",
    "INSERT INTO t SELECT i, 'code ' || i FROM generate_series(1, 100) i",
]


def without_index(uri: str, index: str, statement: str) -> None:
    """Carry out a statement that the index neither checks nor notes."""
    switch = "UPDATE pg_index SET indisready = {0}, indisvalid = {0} WHERE indexrelid = '{1}'::regclass"
    run(uri, switch.format(False, index), statement, switch.format(True, index))


@pytest.mark.parametrize(
    "case",
    [
        ("t_code", "INSERT INTO t VALUES (101, 'code 7')", "(code)=(code 7)"),
        ("t_pkey", "INSERT INTO t VALUES (7, 'twice')", "(id)=(7)"),
    ],
    ids=["unique constraint", "primary key"],
)
@pytest.mark.parametrize("asked_for", [False, True], ids=["resume", "resync-table"])
async def test_rows_that_violate_a_damaged_index_are_named_and_replicated_once_corrected(
    services: Services, source_db: str, dest_db: str, case: tuple[str, str, str], *, asked_for: bool
) -> None:
    index, duplicate, key = case
    run(source_db, *DAMAGED)
    without_index(source_db, index, duplicate)
    async with services.session() as session:
        await session.start("m", source_db, dest_db, MigrationOptions(follow=True))
        view = await failed(session)
        assert view.failure is not None
        assert view.failure.kind == "DUPLICATE_ROW"
        assert f"index {index} of public.t" in view.failure.message
        assert key in view.failure.message
        assert "damaged" in view.failure.hint and "copied again" in view.failure.hint
        await session.resume("m")  # in vain, until the rows are mended
        view = await failed(session)
        assert view.failure is not None
        assert view.failure.kind == "DUPLICATE_ROW"
        run(source_db, "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t)", "REINDEX TABLE t")
        run(source_db, "UPDATE t SET code = 'mended' WHERE id = 7")
        if asked_for:
            await session.resync_tables("m", (TableId("public", "t"),))
        else:
            await session.resume("m")
        await until_phase(session, "m", Phase.STREAMING)
        await flushed(session, source_db)
        assert rows(dest_db, "SELECT * FROM t ORDER BY 1") == rows(source_db, "SELECT * FROM t ORDER BY 1")
        run(dest_db, f"SELECT '{index}'::regclass")


async def test_unlogged_tables_that_a_crash_has_emptied_are_copied_again_before_the_switchover(
    services: Services, source_db: str, dest_db: str
) -> None:
    """TRUNCATE stands for the crash: the file is as empty."""
    run(
        source_db,
        "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)",
        "INSERT INTO fleeting SELECT generate_series(1, 50)",
    )
    async with services.session() as session:
        await session.start("m", source_db, dest_db, MigrationOptions(follow=True))
        await until_phase(session, "m", Phase.STREAMING)
        run(dest_db, NOT_RECORDED, "TRUNCATE fleeting", "INSERT INTO fleeting VALUES (1)")
        with pytest.raises(PgmigError, match=r"public\.fleeting \(1 of 50 rows\)"):
            async for _ in session.switchover("m", 20.0):
                pass
        await session.resync_tables("m", (TableId("public", "fleeting"),))
        await until_phase(session, "m", Phase.STREAMING)
        assert rows(dest_db, "SELECT count(*) FROM fleeting") == [(50,)]
        assert [step async for step in session.switchover("m", 30.0)][-1].state == StepState.DONE


async def test_unlogged_tables_that_a_crash_empties_during_the_freeze_roll_the_switchover_back(
    services: Services, source_db: str, dest_db: str
) -> None:
    """After the count: a writer holds the freeze up meanwhile. TRUNCATE stands for the crash."""
    run(
        source_db,
        "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)",
        "INSERT INTO fleeting SELECT generate_series(1, 50)",
        "CREATE TABLE held (id int PRIMARY KEY)",
    )
    async with services.session() as session:
        await session.start("m", source_db, dest_db, MigrationOptions(follow=True))
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(source_db) as holder:
            holder.execute("INSERT INTO held VALUES (1)")
            with pytest.raises(PgmigError, match=r"public\.fleeting \(0 of 50 rows\)"):
                async for step in session.switchover("m", 60.0):
                    if (step.name, step.state) == (StepName.FREEZE, StepState.STARTED):
                        run(dest_db, "TRUNCATE fleeting")
                        holder.commit()
        view = await session.get("m")
        assert view.phase is Phase.STREAMING
        run(source_db, "INSERT INTO held VALUES (2)")


async def test_unlogged_tables_that_a_crash_empties_during_a_clone_stop_it(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    """While another table is copied. A clone copies no table again, so the operator does."""
    fill = "INSERT INTO fleeting SELECT generate_series(1, 50)"
    run(source_db, "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)", fill, "CREATE TABLE held (id int)")
    with Services(nats_server, tmp_path, workers=("decoder",)) as services:
        async with services.session() as session:
            await session.start("m", source_db, dest_db, MigrationOptions())
            await until_phase(session, "m", Phase.COPY)
            with psycopg.connect(dest_db) as holder:
                holder.execute("LOCK TABLE held IN ACCESS SHARE MODE")
                services.start("copier")
                await until(session, "m", lambda view: "public.fleeting" in copied(view))
                run(dest_db, "TRUNCATE fleeting")
            view = await failed(session)
            assert view.failure is not None
            assert "public.fleeting (0 of 50 rows)" in view.failure.message
            assert "by hand" in view.failure.hint
            run(dest_db, fill)
            await session.resume("m", source_db, dest_db)
            await until_phase(session, "m", Phase.COMPLETE)


def copied(view: MigrationView) -> set[str]:
    return {str(table.table) for table in view.tables if table.state is TableState.COPIED}


async def failed(session: Session) -> MigrationView:
    async for view in session.follow("m"):
        if view.phase is Phase.FAILED:
            return view
        assert not view.phase.ended
    raise AssertionError("the migration was cleaned up")


pytestmark = pytest.mark.timeout(180)
