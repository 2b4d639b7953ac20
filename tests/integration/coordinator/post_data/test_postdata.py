"""Indexes, constraints and the rest of the section come out as they are on the source."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from services.shared.model import ErrorKind, MigrationId, PgmigError
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.schema.archive.restore_sql import Script
from services.shared.pg.schema.dump_tools import DumpTools, find_tools
from services.shared.pg.schema.post_data import Item, Plan, building_session
from services.shared.pg.session.connection import connection
from services.shared.runtime.assignments import cause
from tests.support.data.compare import compare_databases
from tests.support.schema.post_data import (
    done_steps,
    dumped_schema,
    make_source,
    planned,
    post_data,
    scripts,
    tasks_of_tables,
    work_off,
)
from tests.support.servers.postgres import PostgresServer

PIPELINE = MigrationId("m").forward

INDEXES = "SELECT count(*) FROM pg_index i WHERE i.indrelid::regclass::text LIKE 'odd.%%'"


@pytest.fixture(params=["same", "newer"])
def server(
    request: pytest.FixtureRequest, source_server: PostgresServer, dest_server: PostgresServer
) -> PostgresServer:
    """Of the source's major version, where keys of partitioned tables cannot be NOT VALID, and of a newer."""
    return source_server if request.param == "same" else dest_server


@pytest.fixture
def dest(server: PostgresServer) -> Iterator[str]:
    with server.fresh_database("postdata") as uri:
        yield uri


@pytest.fixture
def restored(server: PostgresServer) -> Iterator[str]:
    """For what pg_restore makes of the same dump: a newer server adds and renames by itself."""
    with server.fresh_database("restored") as uri:
        yield uri


async def tools_for(dest: str) -> DumpTools:
    with psycopg.connect(dest) as conn:
        return await find_tools(17, conn.info.server_version // 10000)


def copy_rows(source: str, dest: str) -> None:
    with psycopg.connect(source) as reader, psycopg.connect(dest) as writer:
        tables = reader.execute(
            "SELECT oid::regclass::text FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'odd'::regnamespace"
        ).fetchall()
        for (table,) in tables:
            with (
                reader.cursor().copy(f"COPY {table} TO STDOUT") as out,
                writer.cursor().copy(f"COPY {table} FROM STDIN") as into,
            ):
                for data in out:
                    into.write(data)


async def prepared(source: str, dest: str, folder: Path) -> tuple[Script, Script]:
    """The destination with pre-data and rows; returns both scripts."""
    make_source(source)
    pre, post = await scripts(await tools_for(dest), source, folder)
    begin(source, dest, pre)
    return pre, post


def begin(source: str, dest: str, pre: Script) -> None:
    with psycopg.connect(dest, autocommit=True) as conn:
        conn.execute(pre.text)
    copy_rows(source, dest)


async def assert_as_restored(dest: str, restored: str) -> None:
    tools = await tools_for(dest)
    assert list(unified_diff(dumped_schema(tools, restored), dumped_schema(tools, dest))) == []
    assert compare_databases(restored, dest, sequences=False) == []


@pytest.mark.parametrize("at_once", [False, True])
async def test_every_property_comes_out_as_pg_restore_makes_it(
    source_db: str, dest: str, restored: str, tmp_path: Path, at_once: bool
) -> None:
    pre, script = await prepared(source_db, dest, tmp_path)
    begin(source_db, restored, pre)
    with psycopg.connect(restored, autocommit=True) as conn:
        conn.execute(script.text)
    await post_data(dest, script, at_once=at_once)
    await assert_as_restored(dest, restored)


@pytest.mark.parametrize("at_once", [False, True])
async def test_what_is_noted_is_not_done_again(
    source_db: str, dest_db: str, tmp_path: Path, at_once: bool
) -> None:
    """A name that is taken stops one table; all else is built, and a second run builds what is left."""
    _, script = await prepared(source_db, dest_db, tmp_path)
    whole, kinds = await planned(dest_db, script)
    with psycopg.connect(dest_db, autocommit=True) as blocker:
        blocker.execute("CREATE TABLE odd.identified_by ()")
        with pytest.raises(ExceptionGroup) as caught:
            await work_off(dest_db, whole, tasks_of_tables(whole, kinds, at_once=at_once))
        assert "identified_by" in str(cause(caught.value))
        blocker.execute("DROP TABLE odd.identified_by")
    done = await done_steps(dest_db)
    missing = [item.label for items in whole.tables for item in items.builds if item.step not in done]
    assert missing == ["constraint identified identified_by"]
    await post_data(dest_db, script, at_once=at_once)
    assert {item.step for items in whole.tables for item in items.finish} <= await done_steps(dest_db)


async def test_orphan_row_is_named(source_db: str, dest: str, tmp_path: Path) -> None:
    _, script = await prepared(source_db, dest, tmp_path)
    with psycopg.connect(dest) as conn:
        conn.execute("INSERT INTO odd.users VALUES (NULL, NULL, NULL, 4711, 200)")
    with pytest.raises(ExceptionGroup) as caught:
        await post_data(dest, script)
    error = cause(caught.value)
    assert isinstance(error, PgmigError)
    assert error.kind is ErrorKind.ORPHAN_ROW
    assert "users_part of odd.users" in error.message
    assert "(part)=(4711)" in error.message


@pytest.mark.parametrize(
    ("own_kb", "asked_kb", "sessions"), [(2048, 12345, 1), (2048, 0, 1), (2048, 0, 4), (1 << 20, 0, 4)]
)
async def test_a_session_has_the_memory_that_was_asked_for_or_its_share_of_shared_buffers(
    dest_db: str, own_kb: int, asked_kb: int, sessions: int
) -> None:
    async with connection(dest_db, "destination") as conn:
        await ensure_bookkeeping(conn)
        query = "SELECT pg_size_bytes(current_setting('shared_buffers')) / 1024"
        shared = await (await conn.execute(query)).fetchone()
        assert shared is not None
        has = asked_kb or max(own_kb, shared[0] // sessions)
        name = sql.Identifier(conn.info.dbname)
        await conn.execute(
            sql.SQL("ALTER DATABASE {} SET maintenance_work_mem = {}").format(
                name, sql.Literal(f"{own_kb}kB")
            )
        )
    shown = Item(
        "shown",
        b"CREATE TABLE shown AS SELECT pg_size_bytes(current_setting('maintenance_work_mem')) / 1024 AS x;",
    )
    async with building_session(
        dest_db, PIPELINE, b"SET search_path = public;", asked_kb, sessions
    ) as session:
        await session.run([shown])
    with psycopg.connect(dest_db) as reader:
        assert reader.execute("SELECT x FROM shown").fetchall() == [(has,)]


async def test_of_items_that_fail_together_the_error_names_the_one_and_keeps_those_before(
    dest_db: str,
) -> None:
    async with connection(dest_db, "destination") as conn:
        await ensure_bookkeeping(conn)
        await conn.execute("CREATE TABLE public.pairs (a int, b int)")
        await conn.execute("INSERT INTO public.pairs VALUES (1, 7), (2, 7)")
    fits, refused, after = (
        Item(f"index {column}", f"CREATE UNIQUE INDEX {column}_key ON public.pairs ({column});".encode())
        for column in ("a", "b", "ctid")
    )
    async with building_session(dest_db, PIPELINE, b"", 0, 1) as session:
        with pytest.raises(PgmigError, match=r"index b_key of public\.pairs"):
            await session.run([fits, refused, after])
        assert await done_steps(dest_db) == {fits.step}
        await session.run([Item("rows", b"DELETE FROM public.pairs;")])
        await session.run([refused])
    assert {fits.step, refused.step} <= await done_steps(dest_db)


async def test_what_cannot_be_noted_is_not_done(dest_db: str) -> None:
    async with connection(dest_db, "destination") as conn:
        await ensure_bookkeeping(conn)
        await conn.execute("ALTER TABLE pgmig.step RENAME TO mislaid")
        async with building_session(dest_db, PIPELINE, b"", 0, 1) as session:
            with pytest.raises(PgmigError, match="step"):
                await session.run([Item("made", b"CREATE TABLE public.made ();")])
        cursor = await conn.execute("SELECT to_regclass('public.made')")
        assert await cursor.fetchone() == (None,)


def labels(whole: Plan) -> set[str]:
    return {item.label for items in whole.tables for item in items.builds if item.late}


async def test_index_on_a_function_of_the_users_waits_for_all_tables(
    source_db: str, dest_db: str, tmp_path: Path
) -> None:
    _, script = await prepared(source_db, dest_db, tmp_path)
    whole, _ = await planned(dest_db, script)
    assert labels(whole) == {"index parts_folded"}
