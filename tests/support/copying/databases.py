"""The setup of the copier's tests: a source with rows, a destination with tables only, and parts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from services.shared.model import CopyPart, Lsn, TableId
from services.shared.pg.bookkeeping.schema import ensure_bookkeeping
from services.shared.pg.catalog.tables import list_tables
from services.shared.pg.copy.part import binary_safe
from services.shared.pg.session.connection import connection
from tests.support.switchover.guarded import ASKS_TO_WRITE

SNAPSHOT_LSN = Lsn.parse("0/AB00")


def copy_schema(bin_dir: Path, source: str, dest: str) -> None:
    """The source's tables on the destination, without indexes, keys and triggers."""
    dump = subprocess.run(
        [bin_dir / "pg_dump", "--format=custom", "--section=pre-data", f"--dbname={source}"],
        stdout=subprocess.PIPE,
        check=True,
    )
    subprocess.run([bin_dir / "pg_restore", f"--dbname={dest}"], input=dump.stdout, check=True)


async def keep_books(dest: str) -> None:
    async with connection(dest, "destination") as conn:
        await ensure_bookkeeping(conn)


@contextmanager
def exported_snapshot(uri: str) -> Iterator[tuple[str, str]]:
    """(name, xids) of a snapshot that exists until the end of the block."""
    with psycopg.connect(uri) as keeper:
        keeper.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        row = keeper.execute("SELECT pg_export_snapshot(), txid_current_snapshot()::text").fetchone()
        assert row is not None
        yield row[0], row[1]


async def parts_of(uri: str, snapshot: tuple[str, str], dest_version: int = 180000) -> list[CopyPart]:
    """One part for each table, in binary format if that is safe."""
    async with connection(uri, "source") as conn:
        tables = await list_tables(conn)
        version = conn.info.server_version
    parts = []
    for table in tables:
        copied = [column for column in table.columns if not column.generated]
        parts.append(
            CopyPart(
                part_id=str(table.table),
                table=table.table,
                columns=tuple(column.name for column in copied),
                snapshot_name=snapshot[0],
                snapshot_lsn=SNAPSHOT_LSN,
                binary=binary_safe((column.type_oid for column in copied), version, dest_version),
                snapshot_xids=snapshot[1],
            )
        )
    return parts


def part(table: str, *columns: str, snapshot: tuple[str, str], binary: bool = False) -> CopyPart:
    return CopyPart(table, TableId("public", table), columns, snapshot[0], SNAPSHOT_LSN, binary, snapshot[1])


def execute(uri: str, *statements: str) -> None:
    with psycopg.connect(uri, autocommit=True, options=ASKS_TO_WRITE) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def scalar(uri: str, query: str) -> object:
    with psycopg.connect(uri, autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def count(uri: str, table: str) -> int:
    with psycopg.connect(uri, autocommit=True) as conn:
        row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
        assert row is not None
        return int(row[0])
