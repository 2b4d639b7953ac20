"""pg_dump fails under a snapshot: because objects of the source were altered, or for another reason."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.schema.dump import dump_schema
from services.shared.pg.schema.dump_tools import DumpTools, find_tools
from tests.support.servers.installs import newest, oldest

TIMEOUT = "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout"
LOCKS = "pg_dump: error: query failed: ERROR:  out of shared memory\nHINT:  max_locks_per_transaction"
LOST = "pg_dump: error: query failed: server closed the connection unexpectedly"


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY); CREATE TABLE other (id int)")
    return source_db


@pytest.fixture
def snapshot(source: str) -> Iterator[str]:
    with psycopg.connect(source) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = conn.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        yield row[0]


async def failing(folder: Path, message: str, times: int) -> DumpTools:
    """pg_dump, which fails so many times under a snapshot. times=0: always."""
    real = await find_tools(oldest().major, newest().major)
    program = folder / "pg_dump"
    program.write_text(
        f"""#!/bin/sh
case "$*" in
*--snapshot=*)
  echo x >> {folder}/dumps
  if [ {times} = 0 ] || [ $(wc -l < {folder}/dumps) -le {times} ]; then
    echo {shlex.quote(message)} >&2
    exit 1
  fi
esac
exec {shlex.quote(str(real.pg_dump))} "$@"
"""
    )
    program.chmod(0o755)
    return replace(real, bindir=folder)


def dumps(folder: Path) -> int:
    return len((folder / "dumps").read_text().split())


@pytest.mark.parametrize("message", [TIMEOUT, LOCKS])
async def test_error_of_pg_dump_is_reported_when_no_object_was_altered(
    source: str, snapshot: str, tmp_path: Path, message: str
) -> None:
    with psycopg.connect(source) as conn:  # what pg_dump does not fail at
        conn.execute("CREATE TABLE newer (id int); INSERT INTO item VALUES (1); ANALYZE item; TRUNCATE other")
        conn.execute("CREATE TEMP TABLE passing (id int)")
    tools = await failing(tmp_path, message, 0)
    with pytest.raises(PgmigError) as caught:
        await dump_schema(tools, source, snapshot, tmp_path / "archive")
    assert caught.value.kind is ErrorKind.SCHEMA_FAILED
    assert "altered" not in caught.value.message
    assert message.splitlines()[0].rpartition("ERROR:  ")[2] in caught.value.message


async def test_error_that_passes_is_not_reported(source: str, snapshot: str, tmp_path: Path) -> None:
    await dump_schema(await failing(tmp_path, TIMEOUT, 1), source, snapshot, tmp_path / "archive")
    assert dumps(tmp_path) == 2
    assert (tmp_path / "archive").exists()


async def test_lost_connection_is_retried_by_the_phase(source: str, snapshot: str, tmp_path: Path) -> None:
    with pytest.raises(PgmigError) as caught:
        await dump_schema(await failing(tmp_path, LOST, 1), source, snapshot, tmp_path / "archive")
    assert caught.value.kind is ErrorKind.UNREACHABLE


async def test_altered_objects_are_named(source: str, snapshot: str, tmp_path: Path) -> None:
    with psycopg.connect(source) as conn:
        conn.execute("ALTER TABLE other RENAME TO another")
    with pytest.raises(PgmigError) as caught:
        await dump_schema(await failing(tmp_path, TIMEOUT, 0), source, snapshot, tmp_path / "archive")
    assert caught.value.kind is ErrorKind.TABLE_CHANGED
    assert "relation public.other" in caught.value.message
    assert dumps(tmp_path) == 1
