"""A destination that holds something: what is lost of it is told first, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.shared.model import ErrorKind, LargeObjects, Lsn, MigrationOptions, PgmigError, Phase, Selection
from tests.support.pipeline.in_process import rows, run
from tests.support.services.services import Services, until, until_phase

pytestmark = pytest.mark.timeout(180)

PARENTS = "CREATE TABLE parents (id int PRIMARY KEY, note text NOT NULL)"
CHILDREN = "CREATE TABLE children (id serial PRIMARY KEY, parent int CONSTRAINT of_parent REFERENCES parents)"
MINE = "CREATE TABLE mine (id int PRIMARY KEY)"
FILL = "INSERT INTO mine VALUES (7)"
DATA_ONLY = MigrationOptions(data_only=True)
DROP = MigrationOptions(drop_if_exists=True)


@pytest.fixture
def source(source_db: str) -> str:
    run(
        source_db,
        PARENTS,
        CHILDREN,
        "CREATE SCHEMA app",
        "CREATE TYPE app.mood AS ENUM ('ok')",
        "CREATE DOMAIN app.small AS int CHECK (VALUE < 10)",
        "CREATE FUNCTION app.f(app.small) RETURNS app.mood LANGUAGE sql AS 'SELECT NULL::app.mood'",
        "CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m app.mood)",
        "CREATE VIEW app.v AS SELECT * FROM app.t",
        "INSERT INTO parents SELECT n, 'new' FROM generate_series(1, 5) n",
        "INSERT INTO children (parent) SELECT n FROM generate_series(1, 5) n",
        "INSERT INTO app.t (m) VALUES ('ok')",
    )
    return source_db


async def test_rows_go_into_tables_that_are_there_and_changes_follow(
    services: Services, source: str, dest_db: str
) -> None:
    run(
        dest_db,
        PARENTS,
        CHILDREN,
        MINE,
        FILL,
        "INSERT INTO parents VALUES (77, 'old')",
        "INSERT INTO children VALUES (77, 77)",
        "CREATE INDEX of_theirs ON parents (note)",
    )
    options = replace(DATA_ONLY, follow=True, selection=Selection(exclude_schemas=("app",)))
    async with services.session() as session:
        with pytest.raises(PgmigError) as caught:
            await session.start("m", source, dest_db, options)
        assert caught.value.kind is ErrorKind.CONFIRMATION_NEEDED
        assert "public.children, public.parents" in caught.value.message
        plan = await session.plan("m", source, dest_db, options)
        assert (plan.drops, plan.empties) == ((), ("public.children", "public.parents"))
        assert rows(dest_db, "SELECT count(*) FROM parents") == [(1,)], "nothing was changed"
        await session.start("m", source, dest_db, replace(options, confirmed=plan.token))
        await until_phase(session, "m", Phase.STREAMING)
        assert rows(dest_db, "SELECT note, count(*) FROM parents GROUP BY 1") == [("new", 5)]
        assert rows(dest_db, "SELECT count(*) FROM children WHERE id = 77") == [(0,)]
        run(source, "INSERT INTO parents VALUES (6, 'late')", "INSERT INTO children (parent) VALUES (6)")
        written = Lsn.parse(str(rows(source, "SELECT pg_current_wal_lsn()::text")[0][0]))
        await until(session, "m", lambda view: view.positions.flushed_lsn >= written)
        async for _ in session.switchover("m", 20.0):
            pass
    assert rows(dest_db, "SELECT count(*) FROM children") == [(6,)]
    assert rows(dest_db, "SELECT last_value FROM children_id_seq") == [(6,)]
    assert rows(dest_db, "SELECT id FROM mine") == [(7,)]
    assert rows(dest_db, "SELECT conname FROM pg_constraint WHERE contype = 'f'") == [("of_parent",)]


PLAIN = ("CREATE TABLE t (id int PRIMARY KEY, v text)",)
DIVIDED = (
    "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
    "CREATE TABLE low PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100)",
    "CREATE TABLE high PARTITION OF t FOR VALUES FROM (100) TO (MAXVALUE)",
)
OTHERWISE = tuple(line.replace("100", "60") for line in DIVIDED)


@pytest.mark.parametrize(
    ("here", "there"),
    [(PLAIN, DIVIDED), (DIVIDED, PLAIN), (DIVIDED, OTHERWISE), (DIVIDED, DIVIDED)],
    ids=["plain to partitioned", "partitioned to plain", "other bounds", "alike"],
)
async def test_rows_go_into_tables_that_are_partitioned_otherwise(
    here: tuple[str, ...], there: tuple[str, ...], services: Services, source_db: str, dest_db: str
) -> None:
    run(source_db, *here, "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 200) i")
    run(dest_db, *there, "INSERT INTO t VALUES (7, 'old'), (777, 'old')")
    options = replace(DATA_ONLY, follow=True)
    async with services.session() as session:
        plan = await session.plan("m", source_db, dest_db, options)
        assert plan.empties == (("public.high", "public.low") if here == there else ("public.t",))
        await session.start("m", source_db, dest_db, replace(options, confirmed=plan.token))
        run(source_db, "UPDATE t SET v = 'while it is copied' WHERE id % 10 = 0")
        await until_phase(session, "m", Phase.STREAMING)
        run(
            source_db,
            "INSERT INTO t VALUES (-1, NULL), (1000, '')",
            "UPDATE t SET id = id + 1000 WHERE id BETWEEN 50 AND 110",
            "DELETE FROM t WHERE id % 7 = 0",
        )
        async for _ in session.switchover("m", 20.0):
            pass
    rows_of = "SELECT id, v FROM t ORDER BY id"
    assert rows(dest_db, rows_of) == rows(source_db, rows_of)
    assert rows(dest_db, "SELECT count(*) FROM t WHERE v = 'old'") == [(0,)]


async def test_columns_may_have_another_order(services: Services, source_db: str, dest_db: str) -> None:
    run(
        source_db,
        "CREATE TABLE t (id int PRIMARY KEY, gone int, a text, b int,"
        " twice int GENERATED ALWAYS AS (b * 2) STORED)",
        "ALTER TABLE t DROP gone",
        "INSERT INTO t SELECT i, 'a' || i, -i FROM generate_series(1, 100) i",
    )
    run(
        dest_db,
        "CREATE TABLE t (twice int GENERATED ALWAYS AS (b * 2) STORED, b int, gone text,"
        " id int PRIMARY KEY, a text)",
        "ALTER TABLE t DROP gone",
    )
    async with services.session() as session:
        await session.start("m", source_db, dest_db, replace(DATA_ONLY, follow=True))
        await until_phase(session, "m", Phase.STREAMING)
        run(source_db, "UPDATE t SET b = 7 WHERE id < 10", "INSERT INTO t VALUES (1000, 'late', 1)")
        async for _ in session.switchover("m", 20.0):
            pass
    rows_of = "SELECT id, a, b, twice FROM t ORDER BY id"
    assert rows(dest_db, rows_of) == rows(source_db, rows_of)


async def test_columns_of_tables_that_are_partitioned_otherwise_are_compared(
    services: Services, source_db: str, dest_db: str
) -> None:
    run(source_db, *DIVIDED)
    run(dest_db, "CREATE TABLE t (id bigint PRIMARY KEY)")
    async with services.session() as session:
        with pytest.raises(PgmigError) as caught:
            await session.start("m", source_db, dest_db, DATA_ONLY)
    assert "public.t has no column v, column id is bigint instead of integer" in caught.value.message
    assert "low" not in caught.value.message


async def test_everything_that_does_not_fit_the_rows_is_named_at_once(
    services: Services, source: str, dest_db: str
) -> None:
    run(
        dest_db,
        "CREATE TABLE parents (id bigint PRIMARY KEY, more int)",
        "CREATE VIEW children AS SELECT 1 AS id",
    )
    async with services.session() as session:
        with pytest.raises(PgmigError) as caught:
            await session.start("m", source, dest_db, DATA_ONLY)
    assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY
    for told in (
        "table app.t is not there",
        "public.children is not an ordinary or partitioned table there",
        "no column note",
        "a column more more",
        "column id is bigint instead of integer",
        "sequence app.t_id_seq is not there",
        "sequence public.children_id_seq is not there",
    ):
        assert told in caught.value.message


async def test_what_is_made_is_dropped_before_and_everything_else_stays(
    services: Services, source: str, dest_db: str
) -> None:
    run(
        dest_db,
        "CREATE SCHEMA app",
        "CREATE TYPE app.mood AS ENUM ('old')",
        "CREATE DOMAIN app.small AS int",
        "CREATE FUNCTION app.f(app.small) RETURNS app.mood LANGUAGE sql AS 'SELECT NULL::app.mood'",
        "CREATE FUNCTION app.f(text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY, other text DEFAULT app.f(1))",
        "CREATE VIEW app.v AS SELECT * FROM app.t",
        "CREATE TABLE parents (id text PRIMARY KEY)",
        MINE,
        FILL,
    )
    async with services.session() as session:
        plan = await session.plan("m", source, dest_db, DROP)
        assert set(plan.drops) == {
            "function app.f(app.small)",
            "sequence app.t_id_seq",
            "table app.t",
            "table public.parents",
            "type app.mood",
            "type app.small",
            "view app.v",
        }
        with pytest.raises(PgmigError) as caught:
            await session.start("m", source, dest_db, replace(DROP, confirmed="another plan's"))
        assert caught.value.kind is ErrorKind.CONFIRMATION_NEEDED
        assert rows(dest_db, "SELECT count(*) FROM app.v") == [(0,)]
        await session.start("m", source, dest_db, replace(DROP, confirmed=plan.token))
        await until_phase(session, "m", Phase.COMPLETE)
    assert rows(dest_db, "SELECT count(*) FROM parents") == [(5,)]
    assert rows(dest_db, "SELECT m::text FROM app.v") == [("ok",)]
    assert rows(dest_db, "SELECT app.f('text')") == [(1,)], "nobody asked for this one to go"
    assert rows(dest_db, "SELECT id FROM mine") == [(7,)]


async def test_large_objects_of_the_destination_are_not_lost_without_a_word(
    services: Services, source: str, dest_db: str
) -> None:
    run(source, "SELECT lo_from_bytea(7, 'new')")
    run(dest_db, "SELECT lo_from_bytea(7, 'old'), lo_from_bytea(8, 'mine')")
    async with services.session() as session:
        left_alone = replace(DROP, large_objects=LargeObjects.SKIP)
        assert (await session.plan("m", source, dest_db, left_alone)).drops == ()
        plan = await session.plan("m", source, dest_db, DROP)
        assert plan.drops == ("2 large objects",)
        with pytest.raises(PgmigError, match="this would drop 2 large objects"):
            await session.start("m", source, dest_db, DROP)
        await session.start("m", source, dest_db, replace(DROP, confirmed=plan.token))
        await until_phase(session, "m", Phase.COMPLETE)
    assert rows(dest_db, "SELECT oid::int, lo_get(oid) FROM pg_largeobject_metadata") == [(7, b"new")]


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ((PARENTS, "CREATE VIEW theirs AS SELECT id FROM parents"), r"view public\.theirs"),
        ((PARENTS, "CREATE TABLE theirs (id int CONSTRAINT k REFERENCES parents)"), "constraint k on table"),
        (
            (
                "CREATE TABLE parents (id int) PARTITION BY RANGE (id)",
                "CREATE TABLE theirs PARTITION OF parents DEFAULT",
            ),
            "theirs",
        ),
        (("CREATE VIEW parents AS SELECT 1 AS id",), "view public.parents, where table public.parents"),
    ],
)
async def test_what_others_on_the_destination_need_is_not_dropped(
    there: tuple[str, ...], told: str, services: Services, source: str, dest_db: str
) -> None:
    run(dest_db, *there)
    async with services.session() as session:
        with pytest.raises(PgmigError, match=told) as caught:
            await session.plan("m", source, dest_db, DROP)
    assert caught.value.kind is ErrorKind.DESTINATION_NOT_READY


async def test_the_bookkeeping_of_an_earlier_migration_is_not_used(
    services: Services, source: str, dest_db: str
) -> None:
    run(
        dest_db,
        "CREATE SCHEMA pgmig",
        "CREATE TABLE pgmig.step (pipeline text, step text)",
        "CREATE TABLE pgmig.copy_part"
        " (pipeline text, part_id text, snapshot_lsn pg_lsn, rows int8, bytes int8)",
        "INSERT INTO pgmig.step VALUES ('m/forward', 'pre-data')",
    )
    async with services.session() as session:
        with pytest.raises(PgmigError) as caught:
            await session.start("m", source, dest_db, DROP)
    assert caught.value.kind is ErrorKind.ALREADY_EXISTS
