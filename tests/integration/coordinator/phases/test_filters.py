"""Filters: what is chosen arrives whole with what it needs, and nothing else is touched."""

from __future__ import annotations

import psycopg
import pytest

from clients.session import Session
from services.shared.model import (
    ErrorKind,
    EventLevel,
    Lsn,
    MigrationOptions,
    MigrationView,
    PgmigError,
    Phase,
    Selection,
)
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until, until_phase

pytestmark = pytest.mark.timeout(180)

RELATIONS = """
    SELECT relnamespace::regnamespace::text || '.' || relname FROM pg_class
    WHERE relkind IN ('r', 'p', 'v', 'm', 'S')
      AND relnamespace::regnamespace::text !~ '^pg_|information_schema|pgmig'
    ORDER BY 1"""
KEYS = "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 ORDER BY 1"
PUBLISHED = "SELECT prrelid::regclass::text FROM pg_publication_rel ORDER BY 1"


@pytest.fixture
def source(source_db: str) -> str:
    run(
        source_db,
        "CREATE SCHEMA app",
        "CREATE SCHEMA types",
        'CREATE SCHEMA "Odd Name"',
        "CREATE TYPE types.mood AS ENUM ('sad', 'ok')",
        "CREATE TYPE types.pair AS (a int, b types.mood)",
        "CREATE TYPE types.unused AS ENUM ('x')",
        "CREATE FUNCTION types.half(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 / 2'",
        "COMMENT ON FUNCTION types.half(int) IS 'half of it'",
        "CREATE SEQUENCE app.shared_ids",
        "CREATE TABLE app.customers (id serial PRIMARY KEY, mood types.mood, both_of types.pair)",
        """CREATE TABLE app.orders (
            id int PRIMARY KEY DEFAULT nextval('app.shared_ids'),
            customer int CONSTRAINT orders_customer REFERENCES app.customers,
            half int CHECK (types.half(half) >= 0))""",
        "COMMENT ON CONSTRAINT orders_customer ON app.orders IS 'whose it is'",
        "CREATE INDEX orders_half ON app.orders (types.half(half))",
        "CREATE TABLE app.lines (id int PRIMARY KEY, o int CONSTRAINT lines_order REFERENCES app.orders)",
        "CREATE VIEW app.moods AS SELECT DISTINCT mood FROM app.customers",
        "CREATE MATERIALIZED VIEW app.counted AS SELECT count(*) FROM app.orders",
        "CREATE FUNCTION app.of_customer(app.customers) RETURNS int LANGUAGE sql AS 'SELECT $1.id'",
        "COMMENT ON FUNCTION app.of_customer(app.customers) IS 'goes with its table'",
        "CREATE TABLE app.audit (id int, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        "CREATE INDEX audit_id ON app.audit (id)",
        "CREATE TABLE app.audit_old PARTITION OF app.audit FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
        "CREATE TABLE app.audit_new PARTITION OF app.audit FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')",
        'CREATE TABLE "Odd Name"."T$1" (id int PRIMARY KEY)',
        "CREATE TABLE public.t1 (id int PRIMARY KEY)",
        "INSERT INTO app.customers SELECT n, 'ok', ROW(n, 'sad'::types.mood)::types.pair"
        " FROM generate_series(1, 9) n",
        "SELECT setval('app.customers_id_seq', 41)",
        "INSERT INTO app.orders (customer, half) SELECT n, n FROM generate_series(1, 9) n",
        "INSERT INTO app.lines SELECT n, n FROM generate_series(1, 9) n",
        "INSERT INTO app.audit SELECT n, '2020-06-01' FROM generate_series(1, 5) n",
        "INSERT INTO app.audit SELECT n, '2021-06-01' FROM generate_series(1, 5) n",
        'INSERT INTO "Odd Name"."T$1" VALUES (1)',
        "INSERT INTO public.t1 VALUES (1)",
        "REFRESH MATERIALIZED VIEW app.counted",
    )
    return source_db


async def cloned(services: Services, source: str, dest: str, options: MigrationOptions) -> MigrationView:
    async with services.session() as session:
        await session.start("m", source, dest, options)
        return await until_phase(session, "m", Phase.COMPLETE)


def listed(uri: str, query: str) -> list[object]:
    return [row[0] for row in rows(uri, query)]


def warnings(view: MigrationView) -> str:
    return "\n".join(event.text for event in view.events if event.level == EventLevel.WARNING)


async def caught_up(session: Session, source: str) -> None:
    written = Lsn.parse(str(rows(source, "SELECT pg_current_wal_lsn()::text")[0][0]))
    await until(session, "m", lambda view: view.positions.flushed_lsn >= written)


async def test_included_tables_come_with_what_they_need_and_nothing_else(
    services: Services, source: str, dest_db: str
) -> None:
    selection = Selection(include_tables=("app.orders", '"Odd Name"."T$1"', "T[0-9]"))
    view = await cloned(services, source, dest_db, MigrationOptions(selection=selection))
    assert listed(dest_db, RELATIONS) == ['"Odd Name".T$1', "app.orders", "app.shared_ids", "public.t1"]
    assert listed(dest_db, "SELECT typname FROM pg_type WHERE typtype = 'e'") == []
    functions = "SELECT proname FROM pg_proc WHERE pronamespace::regnamespace::text IN ('app', 'types')"
    assert listed(dest_db, functions) == ["half"]
    assert rows(dest_db, "SELECT count(*) FROM app.orders") == [(9,)]
    assert rows(dest_db, "SELECT last_value FROM app.shared_ids") == [(9,)]
    assert rows(dest_db, "SELECT obj_description('types.half(int)'::regprocedure)") == [("half of it",)]
    assert listed(dest_db, KEYS) == []
    assert "orders_customer (app.orders to app.customers)" in warnings(view)
    assert "lines_order (app.lines to app.orders)" in warnings(view)
    indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'orders' ORDER BY 1"
    assert listed(dest_db, indexes) == ["orders_half", "orders_pkey"]


async def test_roles_of_what_is_left_out_are_needed_nowhere(
    services: Services, source: str, dest_db: str, source_server: PostgresServer
) -> None:
    source_server.execute("CREATE ROLE only_here")
    try:
        run(
            source,
            "ALTER TABLE app.customers OWNER TO only_here",
            "ALTER TABLE app.lines ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY mine ON app.lines TO only_here USING (true)",
            "GRANT SELECT ON app.audit TO only_here",
            'ALTER SCHEMA "Odd Name" OWNER TO only_here',
            'ALTER DEFAULT PRIVILEGES IN SCHEMA "Odd Name" GRANT SELECT ON TABLES TO only_here',
        )
        selection = Selection(include_tables=("app.orders", "t1"))
        await cloned(services, source, dest_db, MigrationOptions(selection=selection))
    finally:
        run(source, "DROP OWNED BY only_here CASCADE")
        source_server.execute("DROP ROLE only_here")
    assert listed(dest_db, RELATIONS) == ["app.orders", "app.shared_ids", "public.t1"]
    assert rows(dest_db, "SELECT count(*) FROM app.orders") == [(9,)]


async def test_an_excluded_table_takes_along_what_cannot_be_without_it(
    services: Services, source: str, dest_db: str
) -> None:
    selection = Selection(exclude_tables=("app.cust*",), exclude_schemas=('"Odd Name"',))
    view = await cloned(services, source, dest_db, MigrationOptions(selection=selection))
    assert listed(dest_db, RELATIONS) == [
        "app.audit",
        "app.audit_new",
        "app.audit_old",
        "app.counted",
        "app.lines",
        "app.orders",
        "app.shared_ids",
        "public.t1",
    ]
    assert listed(dest_db, KEYS) == ["lines_order"]
    assert listed(dest_db, "SELECT typname FROM pg_type WHERE typtype = 'e' ORDER BY 1") == ["mood", "unused"]
    assert "orders_customer (app.orders to app.customers)" in warnings(view)
    assert "function app.of_customer(app.customers)" in warnings(view)
    assert "view app.moods" in warnings(view)
    schemas = "SELECT nspname FROM pg_namespace WHERE nspname IN ('app', 'Odd Name', 'types') ORDER BY 1"
    assert listed(dest_db, schemas) == ["app", "types"]
    assert rows(dest_db, "SELECT * FROM app.counted") == [(9,)]


async def test_an_included_schema_brings_types_from_elsewhere(
    services: Services, source: str, dest_db: str
) -> None:
    selection = Selection(include_schemas=("app",), exclude_tables=("app.audit",))
    view = await cloned(services, source, dest_db, MigrationOptions(selection=selection))
    assert listed(dest_db, RELATIONS) == [
        "app.counted",
        "app.customers",
        "app.customers_id_seq",
        "app.lines",
        "app.moods",
        "app.orders",
        "app.shared_ids",
    ]
    assert listed(dest_db, "SELECT typname FROM pg_type WHERE typtype = 'e'") == ["mood"]
    assert rows(dest_db, "SELECT last_value FROM app.customers_id_seq") == [(41,)]
    assert rows(dest_db, "SELECT both_of::text FROM app.customers WHERE id = 3") == [("(3,sad)",)]
    assert listed(dest_db, KEYS) == ["lines_order", "orders_customer"]
    assert warnings(view) == ""


async def test_tables_without_their_rows_are_neither_copied_nor_published(
    services: Services, source: str, dest_db: str
) -> None:
    selection = Selection(exclude_table_data=("app.customers", "app.audit_old"), exclude_tables=("t1",))
    options = MigrationOptions(follow=True, selection=selection)
    async with services.session() as session:
        await session.start("m", source, dest_db, options)
        view = await until_phase(session, "m", Phase.STREAMING)
        assert "orders_customer" in warnings(view)
        published = ['"Odd Name"."T$1"', "app.audit_new", "app.lines", "app.orders"]
        assert listed(source, PUBLISHED) == published
        run(
            source,
            "INSERT INTO app.customers VALUES (100)",
            "INSERT INTO app.audit VALUES (100, '2020-01-01'), (100, '2021-01-01')",
            "INSERT INTO app.orders VALUES (100, 100)",
            "INSERT INTO public.t1 VALUES (2)",
        )
        await caught_up(session, source)
        assert rows(dest_db, "SELECT count(*) FROM app.customers") == [(0,)]
        assert rows(dest_db, "SELECT count(*) FROM app.audit") == [(6,)]
        assert rows(dest_db, "SELECT count(*) FROM app.orders") == [(10,)]
        assert listed(dest_db, KEYS) == ["lines_order"]
        run(source, "CREATE TABLE public.t2 (id int PRIMARY KEY)")
        with pytest.raises(PgmigError, match=r"public\.t2"):
            await switched(session)
        run(source, "DROP TABLE public.t2")
        await switched(session)
        assert rows(dest_db, "SELECT last_value FROM app.customers_id_seq") == [(41,)]
        await session.cleanup("m")


async def switched(session: Session) -> None:
    async for _ in session.switchover("m", 20.0):
        pass


async def test_a_table_outside_the_filter_does_not_hold_up_the_switchover(
    services: Services, source: str, dest_db: str
) -> None:
    selection = Selection(include_tables=("public.t1",))
    async with services.session() as session:
        await session.start("m", source, dest_db, MigrationOptions(follow=True, selection=selection))
        await until_phase(session, "m", Phase.STREAMING)
        assert listed(source, PUBLISHED) == ["t1"]
        run(source, "CREATE TABLE app.late (id int PRIMARY KEY)", "INSERT INTO t1 VALUES (2)")
        with psycopg.connect(source) as other:  # its lock is none of ours; the freeze ends it
            other.execute("INSERT INTO app.customers VALUES (100)")
            await switched(session)
            other.close()
    assert rows(dest_db, "SELECT count(*) FROM t1") == [(2,)]
    assert listed(dest_db, RELATIONS) == ["public.t1"]


async def test_partitions_are_selected_with_their_root_or_by_themselves(
    services: Services, source: str, dest_db: str
) -> None:
    selection = Selection(include_tables=("app.audit_old", "app.t*"))
    async with services.session() as session:
        with pytest.raises(PgmigError, match=r"--include-table 'app\.t\*'"):
            await session.start("m", source, dest_db, MigrationOptions(selection=selection))
    selection = Selection(include_tables=("app.audit_old",))
    view = await cloned(services, source, dest_db, MigrationOptions(selection=selection))
    assert listed(dest_db, RELATIONS) == ["app.audit_old"]
    assert rows(dest_db, "SELECT count(*) FROM app.audit_old") == [(5,)]
    assert "tables of their own: app.audit_old" in warnings(view)
    run(dest_db, "DROP SCHEMA app CASCADE")
    async with services.session() as session:
        await session.cleanup("m")
    selection = Selection(include_tables=("app.audit",), exclude_tables=("app.audit_old",))
    await cloned(services, source, dest_db, MigrationOptions(selection=selection))
    assert listed(dest_db, RELATIONS) == ["app.audit", "app.audit_new"]


async def test_a_table_that_inherits_from_one_left_out_is_refused(
    services: Services, source: str, dest_db: str
) -> None:
    run(source, "CREATE TABLE app.child () INHERITS (public.t1)")
    async with services.session() as session:
        with pytest.raises(PgmigError, match=r"app\.child without public\.t1") as caught:
            await session.start(
                "m", source, dest_db, MigrationOptions(selection=Selection(exclude_tables=("t1",)))
            )
    assert caught.value.kind is ErrorKind.SOURCE_NOT_READY
    assert listed(dest_db, RELATIONS) == []


async def test_a_schema_alone_has_no_rows_and_no_sequence_values(
    services: Services, source: str, dest_db: str
) -> None:
    await cloned(services, source, dest_db, MigrationOptions(schema_only=True))
    assert len(listed(dest_db, RELATIONS)) == len(listed(source, RELATIONS))
    assert listed(dest_db, KEYS) == listed(source, KEYS)
    assert rows(dest_db, "SELECT count(*) FROM app.orders") == [(0,)]
    assert rows(dest_db, "SELECT last_value, is_called FROM app.customers_id_seq") == [(1, False)]
    assert rows(dest_db, "SELECT ispopulated FROM pg_matviews") == [(False,)]
