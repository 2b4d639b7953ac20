"""The schema's way: both sections arrive whole or not at all, and only once."""

from __future__ import annotations

import stat
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ErrorKind, MigrationId, PgmigError
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping, mark_step, steps_done
from services.shared.pg.catalog.sequences import SequenceSetter, read_sequences, verify_sequences
from services.shared.pg.schema.archive.entries import Section
from services.shared.pg.schema.dump import dump_schema, run_script, section_script
from services.shared.pg.schema.dump_tools import DumpTools, find_tools
from services.shared.pg.session.connection import connection
from tests.support.data.compare import compare_databases
from tests.support.data.schema import create_schema
from tests.support.schema.post_data import post_data

PIPELINE = MigrationId("m").forward


async def dumped(source: str, tmp_path: Path) -> Path:
    tools = await find_tools(17, 18)
    await dump_schema(tools, source, None, tmp_path / "schema.dump")
    return tmp_path / "schema.dump"


async def restore(dest: str, script: bytes) -> None:
    async with connection(dest, "destination") as conn:
        await ensure_bookkeeping(conn)
    async with connection(dest, "destination") as conn, conn.transaction():
        await run_script(conn, script, "pre-data")
        await mark_step(conn, PIPELINE, "pre-data")


async def steps(dest: str) -> set[str]:
    async with connection(dest, "destination") as conn:
        return await steps_done(conn, PIPELINE)


def relations(uri: str) -> int:
    with psycopg.connect(uri) as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace::regnamespace::text IN ('shop', 'public')"
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_both_sections_give_the_same_definitions(source_db: str, dest_db: str, tmp_path: Path) -> None:
    create_schema(source_db)
    archive = await dumped(source_db, tmp_path)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    await restore(dest_db, (await section_script(archive, Section.PRE_DATA)).text)
    await post_data(dest_db, await section_script(archive, Section.POST_DATA))
    assert compare_databases(source_db, dest_db, sequences=False) == []


async def test_section_that_fails_leaves_nothing(source_db: str, dest_db: str, tmp_path: Path) -> None:
    create_schema(source_db)
    archive = await dumped(source_db, tmp_path)
    script = (await section_script(archive, Section.PRE_DATA)).text
    with pytest.raises(PgmigError) as caught:
        await restore(dest_db, script + b"\nCREATE TABLE public.broken (a no_such_type);\n")
    assert caught.value.kind is ErrorKind.SCHEMA_FAILED
    assert "no_such_type" in caught.value.message
    assert relations(dest_db) == 0
    assert await steps(dest_db) == set()


async def test_password_is_in_no_argument_of_pg_dump(source_db: str, tmp_path: Path) -> None:
    """pg_dump's stand-in writes down what it was called with."""
    program = tmp_path / "pg_dump"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\ncat "$PGSERVICEFILE" >> {tmp_path}/service\n'
    )
    program.chmod(0o755)
    await dump_schema(DumpTools(tmp_path, 17), source_db, "snap", tmp_path / "out")
    password = source_db.partition("@")[0].rpartition(":")[2]
    assert "--snapshot=snap" in (tmp_path / "arguments").read_text()
    assert password not in (tmp_path / "arguments").read_text()
    assert password not in (tmp_path / "service").read_text()


async def test_lost_snapshot_and_failing_program_are_reported(source_db: str, tmp_path: Path) -> None:
    tools = await find_tools(17, 18)
    with pytest.raises(PgmigError) as caught:
        await dump_schema(tools, source_db, "00000003-0000001B-1", tmp_path / "out")
    assert caught.value.kind is ErrorKind.SNAPSHOT_LOST
    assert not any(tmp_path.glob("*"))  # noqa: ASYNC240 - a handful of names


@pytest.mark.parametrize("failures", [2, 3])
async def test_a_dump_that_meets_ddl_is_made_again(source_db: str, tmp_path: Path, failures: int) -> None:
    """pg_dump's stand-in fails so often as pg_dump does beside DROP INDEX."""
    program = tmp_path / "pg_dump"
    program.write_text(
        f"""#!/bin/sh
echo x >> {tmp_path}/calls
[ $(wc -l < {tmp_path}/calls) -gt {failures} ] && exit 0
echo "pg_dump: error: query failed: ERROR:  cache lookup failed for index 18199" >&2
exit 1
"""
    )
    program.chmod(0o755)
    dump = dump_schema(DumpTools(tmp_path, 17), source_db, None, tmp_path / "out")
    if failures == 2:
        await dump
    else:
        with pytest.raises(PgmigError, match="cache lookup failed") as caught:
            await dump
        assert caught.value.kind is ErrorKind.SCHEMA_FAILED
    assert len((tmp_path / "calls").read_text().split()) == 3


async def test_sequences_are_set_and_proven(source_db: str, dest_db: str) -> None:
    for uri in (source_db, dest_db):
        with psycopg.connect(uri) as conn:
            conn.execute('CREATE SEQUENCE "Odd"" Name"')
            conn.execute("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY)")
    with psycopg.connect(source_db) as conn:
        conn.execute('SELECT nextval(\'"Odd"" Name"\') FROM generate_series(1, 41)')
    async with connection(source_db, "source") as source, connection(dest_db, "destination") as dest:
        values = await read_sequences(source, "source")
        assert [(value.last_value, value.called) for value in values] == [(41, True), (1, False)]
        with pytest.raises(PgmigError) as caught:
            await verify_sequences(dest, values)
        assert caught.value.kind is ErrorKind.SCHEMA_DRIFT
        await (await SequenceSetter.claim(dest, PIPELINE)).set(dest, values)
        await dest.execute('SELECT pg_catalog.nextval(\'public."Odd"" Name"\')')
        with pytest.raises(PgmigError):
            await verify_sequences(dest, values)
